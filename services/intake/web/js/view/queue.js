// What waits: by model and priority, and by owner.

import { html } from "../../vendor/htm-preact.js";
import { number } from "../format.js";
import { t, word } from "../i18n.js";
import { filter } from "../store.js";
import { Panel } from "./frame.js";

const MOST_OWNERS = 6;

export function Queue({ s }) {
  if (!s.queue) return null;
  const queues = s.queue.queues.filter((one) => one.waiting + one.taken > 0);
  const owners = s.queue.owners.slice(0, MOST_OWNERS);
  const most = Math.max(1, ...queues.map((one) => one.waiting + one.taken));
  return html`<${Panel} id="queue" title=${t("queue.title")}>
    ${queues.length === 0 && html`<p class="muted">${t("queue.empty")}</p>`}
    ${queues.length > 0 && html`<table class="plain queue"><thead class="unseen"><tr><th>${t("queue.model")}</th><th>${t("queue.length")}</th></tr></thead>
      <tbody>${queues.map((one) => html`<tr key=${`${one.model} ${one.priority}`}>
        <th scope="row"><button class="link" type="button" onClick=${() => filter({ model: one.model, state: one.waiting ? "queued" : "started" })}>${one.model}</button>
          ${one.priority === "high" && html` <span class="tag">${word("priority", "high")}</span>`}</th>
        <td><span class="stack" aria-hidden="true"><i class="taken" style=${{ width: `${(one.taken / most) * 100}%` }}></i>
            <i style=${{ width: `${(one.waiting / most) * 100}%` }}></i></span>
          <span class="small">${t("queue.counts", { waiting: number(one.waiting), taken: number(one.taken) })}</span></td></tr>`)}</tbody></table>`}
    ${owners.length > 0 && html`<h3>${t("queue.owners")}</h3><table class="plain"><tbody>${owners.map((one) => html`<tr key=${one.owner}>
      <th scope="row"><button class="link" type="button" onClick=${() => filter({ text: `owner:${one.owner}`, state: "", model: "" })}>${one.owner}</button></th>
      <td class="n">${number(one.tasks)}</td></tr>`)}</tbody></table>
      ${s.queue.owners.length > MOST_OWNERS && html`<p class="small muted">${t("queue.more", { n: s.queue.owners.length - MOST_OWNERS })}</p>`}`}
  <//>`;
}
