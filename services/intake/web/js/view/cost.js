// What waits, what runs, what it costs: numbers above, charts beside; and alarms.

import { html } from "../../vendor/htm-preact.js";
import { clock, money, ms, number, safe, span } from "../format.js";
import { lang, t, word } from "../i18n.js";
import { Bars, Meter, Points } from "./chart.js";
import { Panel } from "./frame.js";

const DAYS = 30;
const limitOf = (value) => (value === undefined || value === null || value === "off" ? null : Number(value));

export function Numbers({ s }) {
  const queues = s.queue?.queues || [];
  const sum = (name) => queues.reduce((all, one) => all + one[name], 0);
  const pools = s.fleet?.pools || [];
  const machines = pools.flatMap((pool) => pool.instances);
  const own = pools.flatMap((pool) => pool.own || []);
  const booting = machines.filter((one) => one.state === "booting").length;
  const first = s.why?.pools?.[0];
  const spend = first?.view?.spend;
  const eta = Math.max(...pools.map((pool) => pool.eta_s ?? -1), -1);
  const day = limitOf(first?.budgets?.per_day);
  const month = limitOf(first?.budgets?.per_month);
  return html`<dl class="numbers">
    <${One} name=${t("numbers.waiting")} value=${s.queue ? number(sum("waiting")) : "–"}
      note=${s.why && oldest(s)} />
    <${One} name=${t("numbers.rendering")} value=${s.queue ? number(sum("taken")) : "–"}
      note=${eta >= 0 ? t("numbers.eta", { span: span(eta) }) : ""} kind=${sum("taken") ? "busy" : ""} />
    ${s.fleet && html`<${One} name=${t("numbers.machines")} value=${number(machines.length + own.length)}
      note=${booting ? t("numbers.booting", { n: booting }) : own.length ? t("numbers.own", { n: own.length }) : ""} />`}
    ${spend && html`<${One} name=${t("numbers.rate")} value=${money(spend.per_hour)} note=${t("numbers.per_hour")} />`}
    ${spend && html`<${One} name=${t("numbers.today")} value=${money(spend.today)} ...${against(spend.today, day)} />`}
    ${spend && html`<${One} name=${t("numbers.month")} value=${money(spend.this_month)} ...${against(spend.this_month, month)} />`}
  </dl>`;
}

function against(spent, limit) {
  if (!limit) return { note: t("cost.no_budget") };
  const part = Number(spent) / limit;
  return { note: t("cost.of", { limit: money(limit) }), part, kind: part >= 1 ? "bad" : part >= 0.8 ? "warn" : "" };
}

function oldest(s) {
  const all = s.why.pools.map((pool) => ms(pool.view.oldest_queued_at)).filter(Number.isFinite);
  return all.length ? t("numbers.oldest", { span: span((s.now - Math.min(...all)) / 1000) }) : "";
}

function One({ name, value, note, part, kind }) {
  return html`<div class=${`number ${kind || ""}`}><dt>${name}</dt><dd><b>${value}</b>
    ${part !== undefined && html`<${Meter} part=${part} kind=${kind} />`}<small>${note || "\u00a0"}</small></dd></div>`;
}

/** Days in UTC, as budgets count them: by the ledger, or without one by the batches that are listed. */
function days(s) {
  const byDay = new Map();
  const add = (day, amount) => byDay.set(day, (byDay.get(day) || 0) + Number(amount));
  if (s.costs) s.costs.rows.forEach((row) => add(row.key, row.total));
  else (s.batches || []).forEach((batch) => add(new Date(batch.ended_at || s.now).toISOString().slice(0, 10), batch.cost));
  const bars = [];
  const name = new Intl.DateTimeFormat(lang(), { month: "short", day: "numeric", timeZone: "UTC" });
  for (let back = DAYS - 1; back >= 0; back -= 1) {
    const at = new Date(s.now - back * 86400000);
    bars.push({ label: name.format(at), value: byDay.get(at.toISOString().slice(0, 10)) || 0 });
  }
  return bars;
}

export function Cost({ s }) {
  if (!s.batches && !s.costs) return null;
  const bars = days(s);
  const total = s.costs ? Number(s.costs.total) : bars.reduce((all, bar) => all + bar.value, 0);
  if (total <= 0) return null;
  const limit = limitOf(s.why?.pools?.[0]?.budgets?.per_day);
  return html`<${Panel} id="cost" title=${t("cost.title")} aside=${html`<b>${money(total)}</b>`}>
    <${Bars} bars=${bars} title=${t("cost.title")} limit=${limit} />
    <p class="small muted">${each(s)} ${alwaysOn(s)}</p>
    ${s.costs && html`<${Lines} lines=${s.costs.lines} total=${total} />`}
  <//>`;
}

function each({ costs, batches }) {
  if (costs) return costs.videos > 0 ? t("cost.ledger", { each: money(Number(costs.total) / costs.videos), n: number(costs.videos) }) : "";
  const done = batches.reduce((all, batch) => all + batch.tasks_done, 0);
  const paid = batches.reduce((all, batch) => all + Number(batch.cost), 0);
  return done > 0 ? t("cost.each", { each: money(paid / done), n: number(done), batches: batches.length }) : "";
}

/** What the cheapest machine would cost without batches. */
function alwaysOn(s) {
  const known = (s.why?.pools || []).map((pool) => pool.view.prices).find((prices) => prices.kind === "known" && (prices.usable || prices.cheapest));
  const best = known?.usable || known?.cheapest;
  return best ? t("cost.always_on", { kind: best.pool.split(" ")[0], money: money(Number(best.price) * 24 * DAYS) }) : "";
}

/** For what the money was spent, and what part of it was of use. */
export function Lines({ lines, total }) {
  const rows = Object.entries(lines || {}).filter(([, value]) => Number(value));
  const useful = Number(lines?.rendering || 0) + Number(lines?.load || 0);
  return rows.length > 0 && html`<div class="lines">
    <span class="stack" aria-hidden="true">${rows.filter(([, value]) => Number(value) > 0)
      .map(([name, value]) => html`<i key=${name} class=${`part ${name}`} style=${{ flexGrow: Number(value) }}></i>`)}</span>
    ${total > 0 && html`<p class="small muted">${t("cost.useful", { part: `${number(Math.min(100, (useful / total) * 100))} %` })}</p>`}
    <table class="plain small"><tbody>${rows.map(([name, value]) => html`
      <tr key=${name}><th scope="row"><i class=${`part ${name}`} aria-hidden="true"></i>${word("part", name)}</th><td class="n">${money(value)}</td></tr>`)}</tbody></table></div>`;
}

/** What each instance was bought for, and the most that its pool would pay. */
export function Prices({ s }) {
  const lines = (s.batches || []).flatMap((batch) => batch.receipt?.lines || []);
  const live = (s.fleet?.pools || []).flatMap((pool) => pool.instances);
  const seen = new Set(live.map((one) => one.id));
  const points = lines.filter((line) => !seen.has(line.instance) && line.seconds >= 60 && Number(line.charges?.compute) > 0)
    .map((line) => ({ at: ms(line.launched_at), value: rateOf(line), group: line.kind, zone: line.zone }))
    .concat(live.map((one) => ({ at: ms(one.launched_at), value: Number(one.rate), group: one.kind, zone: one.zone })))
    .sort((a, b) => a.at - b.at).slice(-120)
    .map((point) => ({ ...point, label: `${clock(point.at, s.now)} ${point.group} ${point.zone} ${money(point.value)}/h` }));
  const caps = new Map();
  for (const { view } of s.why?.pools || []) {
    if (view.prices.kind !== "known") continue;
    for (const one of [view.prices.usable, view.prices.cheapest]) if (one) caps.set(one.pool.split(" ")[0], Number(one.cap));
  }
  if (new Set(points.map((point) => point.at)).size < 3) return null;
  const limits = [...caps].map(([kind, value]) => ({ value, label: t("prices.cap", { kind, price: money(value) }) }));
  return html`<${Panel} id="prices" title=${t("prices.title")} aside=${html`<span class="muted small">${t("prices.unit")}</span>`}>
    <${Points} points=${points} limits=${limits} title=${t("prices.title")} from=${points[0].at} to=${s.now}
      labels=${[clock(points[0].at, s.now), t("time.now")]} /><//>`;
}

/** Dollars for an hour; EC2 charges a minute at least. */
export const rateOf = (line) => (Number(line.charges?.compute || 0) * 3600) / Math.max(60, line.seconds);

/** Alarms that fire now, if this server has alarms. */
export function Alarms({ s }) {
  const firing = (s.alarms?.alarms || []).filter((one) => one.state === "firing");
  return firing.map((one) => html`<div class="strip warn alarm" role="alert" key=${`${one.name} ${one.about}`}>
    <p><b>${word("alarm", one.name)}${one.about ? ` · ${one.about}` : ""}</b> <span lang="en">${safe(one.sentence)}</span>${" "}
      <span class="small">${t("since", { time: clock(one.since, s.now) })}</span></p>
    <p class="small" lang="en">${one.what_to_do}</p></div>`);
}
