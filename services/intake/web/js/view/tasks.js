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
  return html`<${Panel} id="tasks" title=${t("tasks.title")}>
    <${Filters} given=${s.filter} />
    ${s.tasks.length === 0 ? html`<${Empty} s=${s} />` : html`<${List} s=${s} />`}
    ${s.cursor !== null && s.tasks.length > 0 && html`<div class="more">
      <button class="quiet" type="button" disabled=${s.listing} onClick=${() => list(true)}>${t(s.listing ? "loading" : "more.tasks")}</button>
    </div>`}
  <//>`;
}

function Filters({ given }) {
  const hint = t(has("/search") ? "tasks.search" : "tasks.find");
  const find = (event) => {
    event.preventDefault();
    filter({ text: new FormData(event.target).get("text") });
  };
  // The cross of a search field empties it without a submit.
  const emptied = (event) => { if (!event.target.value && given.text) filter({ text: "" }); };
  return html`<form class="filters" role="search" onSubmit=${find}>
    <div class="tabs" role="group" aria-label=${t("tasks.state")}>
      ${STATES.map((name) => html`<button type="button" key=${name} aria-pressed=${String(given.state === name)}
        onClick=${() => filter({ state: name })}>${t(`filter.${name || "all"}`)}</button>`)}
    </div>
    <select aria-label=${t("tasks.model")} value=${given.model} onChange=${(event) => filter({ model: event.target.value })}>
      <option value="">${t("tasks.any_model")}</option>
      ${MODELS.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}
    </select>
    <input name="text" type="search" value=${given.text} placeholder=${hint} aria-label=${hint} spellcheck="false" autocomplete="off" onInput=${emptied} />
  </form>`;
}

function Empty({ s }) {
  const { state: named, model, text } = s.filter;
  if (s.listing || !s.loaded) return html`<p class="empty muted">${t("loading")}</p>`;
  if (named || model || text) return html`<p class="empty muted">${t("tasks.none_fits")}</p>`;
  return html`<p class="empty muted">${t("tasks.none")}<br />
    <button class="primary" type="button" onClick=${() => set({ dialog: "submit" })}>${t("submit.open")}</button></p>`;
}

function List({ s }) {
  const workers = new Map();
  for (const pool of s.fleet?.pools || []) {
    const all = [...pool.instances.map((one) => one.worker), ...(pool.own || [])];
    for (const worker of all) if (worker?.task) workers.set(worker.task, worker);
  }
  return html`<table class="list tasks">
    <thead><tr>
      <th>${t("tasks.state")}</th><th>${t("tasks.prompt")}</th><th>${t("tasks.model")}</th><th>${t("tasks.changed")}</th>
      <th class="n"><span class="unseen">${t("tasks.actions")}</span></th>
    </tr></thead>
    <tbody>${s.tasks.map((task) => html`<${Row} key=${task.id} task=${task} worker=${workers.get(task.id)} now=${s.now} />`)}</tbody>
  </table>`;
}

function Row({ task, worker, now }) {
  const prompt = safe(task.prompt);
  return html`<tr>
    <td class="state-cell"><${State} task=${task} />${task.state === "started" && html`<${Steps} task=${task} worker=${worker} />`}</td>
    <td class="prompt-cell">
      <button class="link prompt" type="button" title=${prompt} onClick=${() => open(task.id)}>${prompt}</button>
      <span class="under">${under(task, now)}</span>
    </td>
    <td class="model-cell">${task.model}
      <span class="under">${task.width ? `${task.width}×${task.height} · ${span(task.frames / task.fps)}` : ""}</span></td>
    <td class="when-cell" title=${task.at}>${ago(task.at, now)}</td>
    <td class="n act-cell">
      ${canRetry(task) && html`<${Act} name="retry" prompt=${prompt} act=${() => retry(task.id)} />`}
      ${canCancel(task) && html`<${Act} name="cancel" prompt=${prompt} act=${() => cancel(task.id)} />`}
    </td></tr>`;
}

function Act({ name, prompt, act }) {
  return html`<button class="small-button" type="button" aria-label=${`${t(name)}: ${prompt}`} onClick=${act}>${t(name)}</button>`;
}

function Steps({ task, worker }) {
  const step = worker?.step ?? task.step ?? 0;
  const steps = worker?.steps || task.steps;
  return html`<span class="steps"><${Meter} part=${steps ? step / steps : 0} kind="busy" /><span class="small">${step}/${steps}</span></span>`;
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
  const attempts = task.attempts || [];
  const last = attempts[attempts.length - 1];
  if (task.state === "succeeded" && last?.ended_at) parts.push(t("tasks.took", { span: span((ms(last.ended_at) - ms(last.started_at)) / 1000) }));
  const wait = (ms(task.not_before) - now) / 1000;
  if (task.state === "queued" && wait > 0) parts.push(t("tasks.again_in", { span: span(wait) }));
  const lost = attempts.filter((one) => ["interrupted", "lost"].includes(one.outcome)).length;
  if (lost) parts.push(t("tasks.interrupted", { n: lost }));
  return parts.join(" · ");
}
