// The words of the page, in the language of the document.

import en from "./i18n/en.js";
import zh from "./i18n/zh-CN.js";

const tables = { en, "zh-CN": zh };

export const lang = () => (document.documentElement.lang === "zh-CN" ? "zh-CN" : "en");

export function speak(name) {
  document.documentElement.lang = name;
  try { localStorage.setItem("spotreel.lang", name); } catch { /* for this page only, then */ }
}

/** A text; `{name}` stands for a value. One that is missing in Chinese is told in English. */
export function t(name, values = {}) {
  const text = tables[lang()][name] ?? en[name] ?? name;
  const told = typeof text === "function" ? text(values) : text;
  return told.replace(/\{(\w+)\}/g, (whole, key) => (key in values ? String(values[key]) : whole));
}

/** Whether there is a text of this name: for words that come from the API. */
export const known = (name) => name in en;
export const word = (group, value) => (known(`${group}.${value}`) ? t(`${group}.${value}`) : String(value ?? "").replaceAll("_", " "));
