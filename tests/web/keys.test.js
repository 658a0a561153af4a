// Where the API wants keys, the page asks for one.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, test } from "node:test";
import { close, isAccessible, open, picture } from "./browser.js";

const { SPOTREEL_BIN_DIR, SPOTREEL_DIR } = process.env;

function key(...more) {
  const made = execFileSync(`${SPOTREEL_BIN_DIR}/spotreel`, ["--dir", SPOTREEL_DIR, "keys", "create", "--json", ...more], { encoding: "utf8" });
  return JSON.parse(made).token;
}

after(close);

test("a wrong key is refused with the reason, a good one opens the page and stays in the tab", async () => {
  const page = await open();
  const field = page.getByLabel("API key");
  await field.waitFor();
  await isAccessible(page, "the question for a key");
  await picture(page, "key");
  await field.fill("spotreel_wrong_key");
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByRole("alert").filter({ hasText: "key" }).first().waitFor();
  await field.fill(key("--owner", "ops", "--all"));
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByRole("heading", { name: "Pool default" }).waitFor();
  await page.reload();
  await page.getByText("Live", { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...localStorage }).includes("spotreel_")), false);
  const kept = page.wrong.filter((text) => !text.includes("401"));
  assert.deepEqual(kept, []);
  await page.getByRole("button", { name: "Forget key" }).click();
  await field.waitFor();
});

test("a key of one owner shows that owner's tasks, and no machines", async () => {
  const page = await open();
  await page.getByLabel("API key").fill(key("--owner", "anna"));
  await page.getByRole("button", { name: "Continue" }).click();
  await page.getByText("There are no tasks yet.").waitFor();
  await page.getByRole("button", { name: "New task" }).first().click();
  await page.getByRole("dialog").getByLabel("Prompt", { exact: true }).fill("Anna's fox");
  await page.getByRole("dialog").getByRole("button", { name: "Submit" }).click();
  await page.getByRole("dialog").getByText("Waiting for a worker").waitFor();
  await page.keyboard.press("Escape");
  await page.locator(".tasks .prompt", { hasText: "Anna's fox" }).waitFor();
  assert.equal(await page.getByRole("heading", { name: "Pool default" }).count(), 0);
  await isAccessible(page, "the page of one owner");
  await picture(page, "owner");
});
