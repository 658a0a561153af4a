// Numbers, money, times: in the words of the language that is shown.

import { lang, t } from "./i18n.js";

const numbers = new Map();
const plain = (digits) => {
  const name = `${lang()} ${digits}`;
  if (!numbers.has(name)) numbers.set(name, new Intl.NumberFormat(lang(), { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  return numbers.get(name);
};

export const number = (value, digits = 0) => plain(digits).format(value);

/** Dollars, with as many decimals as tell it apart from nothing. */
export function money(value) {
  const amount = Number(value);
  if (value === undefined || value === null || !Number.isFinite(amount)) return "–";
  const size = Math.abs(amount);
  const digits = size === 0 || size >= 1 ? 2 : size >= 0.1 ? 3 : 4;
  const sign = amount < 0 ? "−" : "";
  return `${sign}$${plain(digits).format(size)}`;
}

/** Two units at most: 3 min 20 s. */
export function span(seconds) {
  if (seconds === undefined || seconds === null || !Number.isFinite(Number(seconds))) return "–";
  let rest = Math.max(0, Math.round(Number(seconds)));
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => rest >= size);
  if (first < 0) return `0\u00a0${t("unit.s")}`;
  const parts = [];
  for (const [name, size] of units.slice(first, first + 2)) {
    const count = Math.floor(rest / size);
    rest -= count * size;
    if (count || !parts.length) parts.push(`${number(count)}\u00a0${t(`unit.${name}`)}`);
  }
  return parts.join(" ");
}

export const ms = (at) => (at ? Date.parse(at) : NaN);
export const since = (at, now) => (now - ms(at)) / 1000;

export function ago(at, now) {
  const seconds = since(at, now);
  if (!Number.isFinite(seconds)) return "–";
  return seconds < 5 ? t("time.now") : t("time.ago", { span: span(coarse(seconds)) });
}

/** What is long ago is told in one unit. */
function coarse(seconds) {
  const size = seconds >= 172800 ? 86400 : seconds >= 7200 ? 3600 : seconds >= 60 ? 60 : 1;
  return Math.floor(seconds / size) * size;
}

const dated = new Map();
function format(options) {
  const name = `${lang()} ${JSON.stringify(options)}`;
  if (!dated.has(name)) dated.set(name, new Intl.DateTimeFormat(lang(), options));
  return dated.get(name);
}

/** The time of day; with the date if it is another day. */
export function clock(at, now = Date.now(), seconds = false) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return "–";
  const same = date.toDateString() === new Date(now).toDateString();
  const time = { hour: "2-digit", minute: "2-digit", hour12: false, ...(seconds && { second: "2-digit" }) };
  return format(same ? time : { month: "short", day: "numeric", ...time }).format(date);
}

export const full = (at) => format({ dateStyle: "medium", timeStyle: "medium", hour12: false }).format(new Date(at));

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB"];
  let size = Number(count);
  let unit = 0;
  while (size >= 1000 && unit < units.length - 1) { size /= 1000; unit += 1; }
  return `${number(size, unit && size < 10 ? 1 : 0)} ${units[unit]}`;
}

/** Characters that would turn the line around them are shown as what they are: prompts come from strangers. */
export const safe = (text) => String(text ?? "").replace(/[\u202a-\u202e\u2066-\u2069\u200e\u200f]/g, "\u25a1");
