// A Chromium with the page in it, which remembers everything that went wrong there.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const { SPOTREEL_API: API, SPOTREEL_CHROMIUM, SPOTREEL_PICTURES, SPOTREEL_WEB_TOOLS, SPOTREEL_CLOUD_ADMIN } = process.env;
const installed = createRequire(`${SPOTREEL_WEB_TOOLS}/package.json`);
const { chromium } = installed("playwright-core");
const axe = readFileSync(installed.resolve("axe-core/axe.min.js"), "utf8");

const PATIENCE_MS = 90000;

let browser = null;

export async function open({ width = 1440, height = 1000, scheme = "light", locale = "en-US" } = {}) {
  browser ??= await chromium.launch({ executablePath: SPOTREEL_CHROMIUM, args: ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"] });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, locale, reducedMotion: "reduce" });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  page.wrong = [];
  page.on("console", (message) => { if (message.type() === "error") page.wrong.push(`${message.text()} ${message.location().url}`); });
  page.on("pageerror", (error) => page.wrong.push(error.stack));
  page.elsewhere = [];
  page.on("request", (request) => page.elsewhere.push(new URL(request.url()).origin));
  await page.goto(API);
  return page;
}

export const close = () => browser?.close();

export async function until(what, holds) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const value = await holds();
    if (value) return value;
    assert.ok(Date.now() < end, `waited ${PATIENCE_MS / 1000} s in vain until ${what}`);
    await new Promise((after) => setTimeout(after, 200));
  }
}

export async function api(method, path, body) {
  const answer = await fetch(`${API}/v1${path}`, { method, body: body && JSON.stringify(body), headers: body && { "Content-Type": "application/json" } });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

/** As the operator of the local cloud. */
export async function cloud(path, body) {
  const answer = await fetch(SPOTREEL_CLOUD_ADMIN + path, { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  assert.ok(answer.ok, `${path}: ${answer.status}`);
}

export const picture = (page, name, fullPage = false) => page.screenshot({ path: `${SPOTREEL_PICTURES}/${name}.png`, fullPage });

/** Nothing that axe calls serious, in whatever is shown now. The page's policy stays in force. */
export async function isAccessible(page, where) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
  const serious = violations.filter((one) => ["serious", "critical"].includes(one.impact));
  const told = serious.map((one) => `${one.id}: ${one.help}\n${one.nodes.slice(0, 3).map((node) => `  ${node.html}\n  ${node.failureSummary}`).join("\n")}`);
  assert.equal(told.length, 0, `${where}:\n${told.join("\n")}`);
}

/** A number of the row of numbers. */
export const number = async (page, name) => {
  const text = await page.locator(".number", { has: page.locator(`dt:text-is("${name}")`) }).locator("b").textContent();
  return Number(text.replace(/[^0-9.]/g, ""));
};
