// Tasks: filters, the list, and what can be done with each.

import { html } from "../../vendor/htm-preact.js";
import { ago, ms, safe, span } from "../format.js";
import { t, word } from "../i18n.js";
import { cancel, filter, has, list, open, retry, set } from "../store.js";
import { Meter } from "./chart.js";
import { Panel } from "./frame.js";

const STATES = ["", "queued", "started", "succeeded", "failed", "cancelled", "expired"];
const MODELS = ["ti2v-5B", "t2v-A14B", "i2v-A14B"];
export const canRetry = (task) => ["failed", "cancelled", "expired"].includes(task.state);
export const canCancel = (task) => ["queued", "started"].includes(task.state);

export function Tasks({ s }) {
  const progress = new Map();
  for (const pool of s.fleet?.pools || []) {
    for (const worker of [...pool.instances.map((one) => one.worker), ...(pool.own || [])]) if (worker?.task) progress.set(worker.task, worker);
  }
  return html`<${Panel} id="tasks" title=${t("tasks.title")}>
    <form class="filters" role="search" onSubmit=${(event) => { event.preventDefault(); filter({ text: new FormData(event.target).get("text") }); }}>
      <div class="tabs" role="group" aria-label=${t("tasks.state")}>${STATES.map((name) => html`<button type="button" key=${name} aria-pressed=${s.filter.state === name ? "true" : "false"}
        onClick=${() => filter({ state: name })}>${t(`filter.${name || "all"}`)}</button>`)}</div>
      <select aria-label=${t("tasks.model")} value=${s.filter.model} onChange=${(event) => filter({ model: event.target.value })}>
        <option value="">${t("tasks.any_model")}</option>${MODELS.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
      <input name="text" type="search" value=${s.filter.text} placeholder=${t(has("/search") ? "tasks.search" : "tasks.find")} aria-label=${t(has("/search") ? "tasks.search" : "tasks.find")} spellcheck="false" autocomplete="off"
        onInput=${(event) => { if (!event.target.value && s.filter.text) filter({ text: "" }); }} />
    </form>
    ${s.tasks.length === 0 ? html`<p class="empty muted">${s.listing || !s.loaded ? t("loading") : s.filter.state || s.filter.model || s.filter.text ? t("tasks.none_fits") : t("tasks.none")}
        ${!s.listing && s.loaded && !s.filter.state && !s.filter.text && html`<br /><button class="primary" type="button" onClick=${() => set({ dialog: "submit" })}>${t("submit.open")}</button>`}</p>`
      : html`<table class="list tasks"><thead><tr><th>${t("tasks.state")}</th><th>${t("tasks.prompt")}</th><th>${t("tasks.model")}</th><th>${t("tasks.changed")}</th><th class="n"><span class="unseen">${t("tasks.actions")}</span></th></tr></thead>
        <tbody>${s.tasks.map((task) => html`<${Row} key=${task.id} task=${task} worker=${progress.get(task.id)} now=${s.now} />`)}</tbody></table>`}
    ${s.cursor !== null && s.tasks.length > 0 && html`<div class="more"><button class="quiet" type="button" disabled=${s.listing} onClick=${() => list(true)}>${s.listing ? t("loading") : t("more.tasks")}</button></div>`}
  <//>`;
}

function Row({ task, worker, now }) {
  const started = task.state === "started";
  const step = worker?.step ?? task.step ?? 0;
  const steps = worker?.steps || task.steps;
  return html`<tr>
    <td class="state-cell"><${State} task=${task} now=${now} />${started && html`<span class="steps"><${Meter} part=${steps ? step / steps : 0} kind="busy" /><span class="small">${step}/${steps}</span></span>`}</td>
    <td class="prompt-cell"><button class="link prompt" type="button" onClick=${() => open(task.id)} title=${safe(task.prompt)}>${safe(task.prompt)}</button>
      <span class="under">${under(task, now)}</span></td>
    <td class="model-cell">${task.model}<span class="under">${task.width ? `${task.width}×${task.height} · ${span(task.frames / task.fps)}` : ""}</span></td>
    <td class="when-cell" title=${task.at}>${ago(task.at, now)}</td>
    <td class="n act-cell">${canRetry(task) && html`<button class="small-button" type="button" aria-label=${`${t("retry")}: ${safe(task.prompt)}`} onClick=${() => retry(task.id)}>${t("retry")}</button>`}
      ${canCancel(task) && html`<button class="small-button" type="button" aria-label=${`${t("cancel")}: ${safe(task.prompt)}`} onClick=${() => cancel(task.id)}>${t("cancel")}</button>`}</td></tr>`;
}

export function State({ task }) {
  const again = task.state === "queued" && task.attempts?.length > 0;
  return html`<span class=${`state ${task.state}`}>${t(`state.${again ? "requeued" : task.state}`)}</span>`;
}

/** What a look at the list should tell beside the prompt. */
function under(task, now) {
  if (task.error) return html`<span class="red" lang="en">${safe(task.error.message)}</span>`;
  const parts = [];
  if (task.owner) parts.push(task.owner);
  for (const [name, value] of Object.entries(task.labels || {}).slice(0, 3)) parts.push(`${safe(name)}=${safe(value)}`);
  if (task.state === "started" && task.phase) parts.push(word("phase", task.phase));
  if (task.state === "started" && task.eta_s) parts.push(t("tasks.eta", { span: span(task.eta_s) }));
  const attempt = task.attempts?.[task.attempts.length - 1];
  if (task.state === "succeeded" && attempt?.ended_at) parts.push(t("tasks.took", { span: span((ms(attempt.ended_at) - ms(attempt.started_at)) / 1000) }));
  if (task.state === "queued" && task.not_before && ms(task.not_before) > now) parts.push(t("tasks.again_in", { span: span((ms(task.not_before) - now) / 1000) }));
  const lost = (task.attempts || []).filter((one) => one.outcome === "interrupted" || one.outcome === "lost").length;
  if (lost) parts.push(t("tasks.interrupted", { n: lost }));
  return parts.join(" · ");
}
