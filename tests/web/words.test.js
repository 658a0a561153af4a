// Every text of the page is there in both languages.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import en from "../../services/intake/web/js/i18n/en.js";
import zh from "../../services/intake/web/js/i18n/zh-CN.js";

const root = new URL("../../services/intake/web/js/", import.meta.url);
const sources = ["", "view/"].flatMap((folder) => readdirSync(new URL(folder, root)).filter((name) => name.endsWith(".js"))
  .map((name) => readFileSync(new URL(folder + name, root), "utf8"))).join("\n");
const places = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();
/** With values that make a text of one form, and of another. */
const told = (text, n) => (typeof text === "function" ? text({ n, batches: n, money: "{money}", span: "{span}" }) : text);

test("both languages have the same texts, with the same values in them", () => {
  assert.deepEqual(Object.keys(zh).sort(), Object.keys(en).sort());
  for (const name of Object.keys(en)) {
    if (typeof en[name] === "string" && typeof zh[name] === "string") assert.deepEqual(places(zh[name]), places(en[name]), name);
    for (const text of [told(en[name], 1), told(en[name], 2), told(zh[name], 1), told(zh[name], 2)]) assert.ok(text, name);
  }
});

test("every text that the page asks for exists", () => {
  for (const [, name] of sources.matchAll(/\bt\(\s*"([^"]+)"/g)) assert.ok(name in en, name);
  for (const [, name] of sources.matchAll(/\? "([a-z_]+\.[a-z_]+)" : "/g)) assert.ok(name in en, name);
});

test("every text is used", () => {
  const groups = new Set([...sources.matchAll(/\bword\(\s*"([^"]+)"/g)].map((match) => match[1]));
  for (const [, group] of sources.matchAll(/`([a-z_]+)\.\$\{/g)) groups.add(group);
  for (const [, group] of sources.matchAll(/`([a-z_]+\.[a-z_]+)\.\$\{/g)) groups.add(group);
  for (const name of Object.keys(en)) {
    const group = name.slice(0, name.lastIndexOf("."));
    assert.ok(sources.includes(`"${name}"`) || groups.has(group) || groups.has(name.split(".")[0]), name);
  }
});
