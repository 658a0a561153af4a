// Batches: the one that runs with its instances, and those before it.

import { html } from "../../vendor/htm-preact.js";
import { ago, clock, money, ms, number, safe, span } from "../format.js";
import { t, word } from "../i18n.js";
import { filter, has, open, set } from "../store.js";
import { Panel } from "./frame.js";
import { Timeline } from "./timeline.js";

const SHOWN = 6;

export function Batches({ s }) {
  if (!s.fleet) return null;
  const active = s.fleet.pools.filter((pool) => pool.batch && !["settled", "failed"].includes(pool.batch.status));
  const titles = new Map(s.tasks.map((task) => [task.id, task]));
  const onTask = (id) => open(id);
  const before = (s.batches || []).filter((batch) => batch.ended_at);
  return html`
    ${active.map((pool) => html`<${Active} key=${pool.batch.id} pool=${pool} s=${s} titles=${titles} onTask=${onTask} />`)}
    ${s.fleet.pools.map((pool) => pool.own?.length > 0 && html`<${Own} key=${pool.pool} pool=${pool} titles=${titles} onTask=${onTask} />`)}
    ${before.length > 0 && html`<${Before} batches=${before} all=${s.all} s=${s} titles=${titles} onTask=${onTask} />`}`;
}

function Active({ pool, s, titles, onTask }) {
  const { batch } = pool;
  const known = (s.batches || []).find((one) => one.id === batch.id);
  const lines = pool.lines?.length ? pool.lines : pool.instances.map(asLine);
  const from = ms(batch.requested_at);
  const to = Math.max(s.now, from + 60000);
  const facts = [
    t("batch.cost", { cost: money(pool.cost), rate: money(pool.rate) }),
    known && t("batch.done", { n: known.tasks_done }),
    pool.tasks !== undefined && t("batch.left", { n: number(pool.tasks) }),
    pool.eta_s !== undefined && t("batch.eta", { span: span(pool.eta_s), time: clock(s.now + pool.eta_s * 1000, s.now) }),
    taken(lines) > 0 && t("batch.taken", { n: taken(lines) }),
  ].filter(Boolean);
  return html`<${Panel} id=${`batch-${batch.id}`} title=${t("batch.title", { id: batch.id })}
    aside=${html`<span class=${`badge ${batch.status}`}>${word("status", batch.status)}</span>`}>
    <p class="lead">${facts.join(" · ")}</p>
    <p class="small muted">${t("batch.began", { time: clock(batch.requested_at, s.now), rule: word("rule", batch.rule) })} <span lang="en">${because(batch)}</span></p>
    ${pool.blocked && html`<p class="block"><b>${t("batch.blocked")}</b> <span lang="en">${pool.blocked.sentence}</span></p>`}
    ${lines.length > 0 ? html`<${Timeline} lines=${lines} live=${pool.instances} from=${from} to=${to} now=${s.now} titles=${titles} onTask=${onTask} />`
      : ["requested", "launching"].includes(batch.status) && html`<p class="muted">${t("batch.buying")}</p>`}
  <//>`;
}

/** The sentence of the rule, without its name, which is told already. */
const because = (batch) => batch.why.replace(`${batch.rule}: `, "");
const taken = (lines) => lines.filter((line) => line.ending === "interrupted").length;
/** An instance as a receipt has it, of a fleet that does not tell of those that are gone. */
const asLine = ({ id, age_s: seconds, ...one }) => ({ ...one, instance: id, seconds });

/** Workers on machines of one's own. */
function Own({ pool, titles, onTask }) {
  return html`<${Panel} id=${`own-${pool.pool}`} title=${t("own.title", { pool: pool.pool })}>
    <table class="plain"><tbody>${pool.own.map((one) => html`<tr key=${one.worker}><th scope="row">${one.worker}</th>
      <td>${one.task ? html`<button class="link" type="button" onClick=${() => onTask(one.task)}>${safe(titles.get(one.task)?.prompt || one.task)}</button>`
        : word("worker", one.state)}</td>
      <td class="n">${one.task ? `${one.step}/${one.steps}` : ""}</td></tr>`)}</tbody></table><//>`;
}

function Before({ batches, s, titles, onTask }) {
  const shown = s.allBatches ? batches : batches.slice(0, SHOWN);
  return html`<${Panel} id="batches" title=${t("batch.before")}>
    <div class="scroll"><table class="list batches"><thead><tr>
      ${["id", "when", "why"].map((name) => html`<th key=${name}>${t(`batch.${name}`)}</th>`)}
      ${["took", "machines", "interruptions", "tasks", "price"].map((name) => html`<th key=${name} class="n">${t(`batch.${name}`)}</th>`)}</tr></thead>
    <tbody>${shown.map((batch) => html`<${One} key=${batch.id} batch=${batch} s=${s} titles=${titles} onTask=${onTask} />`)}</tbody></table></div>
    ${batches.length > SHOWN && html`<div class="more"><button class="quiet" type="button" onClick=${() => set({ allBatches: !s.allBatches })}>
      ${s.allBatches ? t("less") : t("more.batches", { n: batches.length - SHOWN })}</button></div>`}
  <//>`;
}

function One({ batch, s, titles, onTask }) {
  const isOpen = s.batch === batch.id;
  const from = ms(batch.requested_at);
  return html`<tr class=${isOpen ? "is-open" : ""}>
      <th scope="row"><button class="link" type="button" aria-expanded=${String(isOpen)} onClick=${() => set({ batch: isOpen ? null : batch.id })}>${batch.id}</button>
        ${batch.status === "failed" && html` <span class="badge failed">${word("status", "failed")}</span>`}</th>
      <td title=${clock(batch.requested_at, s.now, true)}>${ago(batch.ended_at, s.now)}</td>
      <td>${word("rule", batch.rule)}</td>
      <td class="n">${span((ms(batch.ended_at) - from) / 1000)}</td><td class="n">${batch.instances.active + batch.instances.gone}</td>
      <td class=${`n ${batch.interruptions ? "amber" : ""}`}>${batch.interruptions || "–"}</td>
      <td class="n">${number(batch.tasks_done)}</td><td class="n">${money(batch.cost)}</td></tr>
    ${isOpen && html`<tr class="detail"><td colspan="8">
      <p class="small muted" lang="en">${batch.reason || because(batch)}</p>
      ${batch.receipt?.lines?.length > 0 && html`
        <${Timeline} lines=${batch.receipt.lines} from=${from} to=${ms(batch.ended_at)} now=${s.now} ended=${true} titles=${titles} onTask=${onTask} />
        <p class="small muted">${t("batch.receipt", charges(batch.receipt))}
          ${has("/search") && html` <button class="link underlined" type="button" onClick=${() => show(batch.id)}>${t("batch.tasks_of")}</button>`}</p>`}</td></tr>`}`;
}

function show(id) {
  filter({ text: `batch:${id}`, state: "", model: "" });
  document.getElementById("tasks-title")?.scrollIntoView();
}

function charges({ lines, total }) {
  const sum = (name) => lines.reduce((all, line) => all + Number(line.charges?.[name] || 0), 0);
  return { compute: money(sum("compute")), volume: money(sum("volume")), address: money(sum("address")), total: money(total) };
}
