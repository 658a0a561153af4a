// Why nothing runs yet, and when it will: each rule with what it lacks.

import { html } from "../../vendor/htm-preact.js";
import { clock, money, ms, number, span } from "../format.js";
import { lang, t, word } from "../i18n.js";
import { Meter } from "./chart.js";
import { Panel } from "./frame.js";

export function Pools({ s }) {
  if (!s.why) return null;
  return html`${s.why.error && html`<p class="strip warn" lang="en">${s.why.error}</p>`}
    ${s.why.pools.map((pool) => html`<${Pool} key=${pool.pool} pool=${pool} now=${s.now} />`)}`;
}

function Pool({ pool, now }) {
  const { decision, view } = pool;
  const on = decision.findings.filter((one) => one.outcome !== "off");
  const off = decision.findings.filter((one) => one.outcome === "off");
  const list = html`<ul class="rules">${on.map((one) => html`<${Rule} key=${one.rule} one=${one} view=${view} now=${now} />`)}</ul>`;
  const kind = view.active_batch ? "running" : decision.verdict.kind;
  return html`<${Panel} id=${`pool-${pool.pool}`} title=${t("pool.title", { pool: pool.pool })}
    aside=${html`<span class=${`badge ${kind}`}>${word("verdict", kind)}</span>`}>
    <p class="lead">${headline(pool, now)}</p>
    ${decision.blockers.map((one) => html`<p class="block" key=${one.kind}><b>${word("blocker", one.kind)}</b>
      <span lang="en">${one.sentence}</span>${one.until && html` <span class="muted">${t("until", { time: clock(one.until, now) })}</span>`}</p>`)}
    ${on.length > 0 && (view.active_batch ? html`<details class="small"><summary>${t("rules.while_running")}</summary>${list}</details>` : list)}
    ${off.length > 0 && html`<details class="small"><summary>${t("rules.off", { n: off.length })}</summary>
      <ul class="rules">${off.map((one) => html`<li key=${one.rule} class="muted"><b>${word("rule", one.rule)}</b> <span lang="en">${one.sentence}</span></li>`)}</ul></details>`}
    <${Facts} view=${view} />
  <//>`;
}

/** One sentence, from the parts of the decision; the words of the program where they say more. */
function headline({ decision, view }, now) {
  const { forecast, verdict } = decision;
  if (view.active_batch) return t("pool.runs", { batch: view.active_batch });
  if (verdict.kind === "launch") return t("pool.launches", { rule: word("rule", verdict.rule) });
  if (verdict.kind === "blocked") return t("pool.blocked");
  if (view.work === 0) return t("pool.nothing");
  if (forecast.by) {
    const wait = (ms(forecast.by) - now) / 1000;
    const values = { rule: word("rule", forecast.rule), time: clock(forecast.by, now), span: span(wait) };
    return t(wait > 1 ? "pool.by" : "pool.now", values);
  }
  return lang() === "en" ? forecast.sentence : t("pool.unknown");
}

function Rule({ one, view, now }) {
  const { tasks, wait_s: wait, dollars } = one.distance || {};
  const lacks = [
    tasks !== undefined && t("lacks.tasks", { n: tasks }),
    wait !== undefined && t("lacks.wait", { span: span(wait) }),
    dollars !== undefined && t("lacks.dollars", { money: money(dollars) }),
  ].filter(Boolean);
  return html`<li class=${one.outcome}>
    <div class="rule-line"><b>${word("rule", one.rule)}</b><span class=${`outcome ${one.outcome}`}>${lacks.length ? lacks.join(" · ") : word("outcome", one.outcome)}</span></div>
    ${one.outcome !== "fires" && lacks.length > 0 && html`<${Meter} part=${near(one.distance, view, now)} />`}
    <p class="small muted" lang="en">${one.sentence}</p></li>`;
}

/** How near the rule is: the part of its farthest condition that holds already. */
function near({ tasks, wait_s: wait, dollars }, view, now) {
  const parts = [];
  if (tasks !== undefined) parts.push(view.queued / (view.queued + tasks));
  if (wait !== undefined) {
    const waited = (now - ms(view.oldest_queued_at)) / 1000;
    if (Number.isFinite(waited)) parts.push(waited / (waited + wait));
  }
  const price = Number(view.prices.usable?.price ?? view.prices.cheapest?.price);
  if (dollars !== undefined && price) parts.push((price - Number(dollars)) / price);
  return parts.length ? Math.min(...parts) : 0;
}

function Facts({ view }) {
  const market = view.prices.kind === "known" ? view.prices : null;
  const best = market?.usable || market?.cheapest;
  const facts = [
    best && [t(market.usable ? "fact.price" : "fact.price_over"), `${money(best.price)}/h`, `${best.pool.replace(" in ", ", ")}, ${t("fact.cap", { cap: money(best.cap) })}`],
    view.prices.kind === "unknown" && [t("fact.price"), t("fact.price_unknown"), view.prices.reason],
    view.seconds_per_task && [t("fact.each"), span(view.seconds_per_task), ""],
    view.arrivals_per_hour > 0 && [t("fact.arrivals"), number(view.arrivals_per_hour), t("fact.per_hour")],
  ].filter(Boolean);
  return facts.length > 0 && html`<dl class="facts">${facts.map(([name, value, note]) => html`
    <div key=${name}><dt>${name}</dt><dd>${value} ${note && html`<span class="muted">${note}</span>`}</dd></div>`)}</dl>`;
}
