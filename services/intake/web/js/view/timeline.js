// The instances of a batch over time: boot, service, and how each ended.

import { html } from "../../vendor/htm-preact.js";
import { clock, money, ms, safe, span } from "../format.js";
import { t, word } from "../i18n.js";
import { Meter } from "./chart.js";
import { rateOf } from "./cost.js";

const TICKS = 4;
const STEPS_S = [10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];

/** `live`: the instances that fleet shows now, with their workers. */
export function Timeline({ lines, live, from, to, now, ended, titles, onTask }) {
  const byId = new Map((live || []).map((one) => [one.id, one]));
  const length = Math.max(1000, to - from);
  const at = (time) => Math.max(0, Math.min(100, ((time - from) / length) * 100));
  const rows = [...lines].sort((a, b) => ms(a.launched_at) - ms(b.launched_at));
  const step = STEPS_S.find((one) => length / 1000 / one <= TICKS) || 86400;
  const ticks = [];
  for (let time = step; time * 1000 < length * 0.9; time += step) ticks.push(time);
  return html`<div class="timeline-box"><table class="timeline">
    <thead><tr><th>${t("machine.name")}</th><th class="track-head"><div class="ticks" aria-hidden="true">
        <span style=${{ left: "0%" }}>${clock(from, now)}</span>
        ${ticks.map((time) => html`<span key=${time} style=${{ left: `${(time * 100000) / length}%` }}>+${span(time)}</span>`)}</div>
      <span class="unseen">${t("machine.life")}</span></th>
      ${!ended && html`<th>${t("machine.now")}</th>`}<th class="n">${t("machine.price")}</th><th class="n">${t("machine.cost")}</th></tr></thead>
    <tbody>${rows.map((line) => html`<${Row} key=${line.instance} line=${line} one=${byId.get(line.instance)} at=${at} now=${now} to=${to}
      ended=${ended} titles=${titles} ticks=${ticks.map((time) => (time * 100000) / length)} onTask=${onTask} />`)}</tbody></table></div>`;
}

function Row({ line, one, at, now, to, ended, titles, ticks, onTask }) {
  const launched = ms(line.launched_at);
  const ready = ms(line.ready_at);
  const gone = ms(line.ended_at);
  const isGone = Number.isFinite(gone);
  const end = isGone ? gone : to;
  const boot = Number.isFinite(ready) ? Math.min(ready, end) : end;
  const taken = line.ending === "interrupted" || (one && leaving(one) === "interruption");
  const rate = one ? Number(one.rate) : rateOf(line);
  const part = (begin, until) => ({ left: `${at(begin)}%`, width: `${at(until) - at(begin)}%` });
  return html`<tr class=${isGone ? "gone" : ""}>
    <th scope="row"><span class="kind">${line.kind}</span>
      <span class="zone">${line.zone}${line.lifecycle === "on-demand" ? ` · ${t("machine.on_demand")}` : ""}</span></th>
    <td class="track-cell"><div class="track" aria-hidden="true" title=${story(line, now)}>
      ${ticks.map((left) => html`<s key=${left} style=${{ left: `${left}%` }}></s>`)}
      <i class="boot" style=${part(launched, boot)}></i>
      ${boot < end && html`<i class=${`serve ${taken ? "taken" : ""} ${isGone ? "" : "open"}`} style=${part(boot, end)}></i>`}
      ${taken && html`<b class="mark" style=${{ left: `${at(end)}%` }}>⚡</b>`}</div>
      <span class="unseen">${story(line, now)}</span></td>
    ${!ended && html`<td class="doing"><${Doing} line=${line} one=${one} titles=${titles} onTask=${onTask} /></td>`}
    <td class="n" data-name=${t("machine.price")}>${rate > 0 ? money(rate) : "–"}</td><td class="n" data-name=${t("machine.cost")}>${money(line.cost)}</td></tr>`;
}

const leaving = (one) => one.state?.draining?.why || one.state?.terminating?.why;

function Doing({ line, one, titles, onTask }) {
  if (line.ending) return html`<span class=${line.ending === "interrupted" ? "amber" : "muted"}>${word("ending", line.ending)}</span>`;
  if (!one) return null;
  const why = leaving(one);
  if (why) return html`<span class=${why === "interruption" ? "amber" : "muted"}>${t("machine.leaves", { why: word("leaving", why) })}</span>`;
  if (one.worker?.task) return html`<${Render} worker=${one.worker} task=${titles.get(one.worker.task)} onTask=${onTask} />`;
  const state = typeof one.state === "string" ? word("instance", one.state) : "";
  return html`<span class="muted">${state}${one.worker ? ` · ${word("worker", one.worker.state)}` : ""}</span>`;
}

/** What a worker renders, with the newest picture of it where the task asks for previews. */
function Render({ worker, task, onTask }) {
  const title = safe(task?.prompt || worker.task);
  const steps = worker.steps || task?.steps || 0;
  const { phase, preview_image: preview } = worker.progress || {};
  const show = () => onTask(worker.task);
  return html`<div class="doing-box">
    ${preview && html`<button class="thumb" type="button" tabindex="-1" aria-hidden="true" onClick=${show}><img src=${preview.url} alt="" /></button>`}
    <div><button class="link doing-task" type="button" title=${title} onClick=${show}>${title}</button>
      <span class="steps"><${Meter} part=${steps ? worker.step / steps : 0} kind="busy" />
        <span class="small">${phase && phase !== "denoise" ? word("phase", phase) : `${worker.step}/${steps || "–"}`}</span></span></div></div>`;
}

/** The same as the bars, in words. */
function story(line, now) {
  const parts = [t("machine.launched", { time: clock(line.launched_at, now, true) })];
  if (line.ready_at) parts.push(t("machine.ready", { span: span((ms(line.ready_at) - ms(line.launched_at)) / 1000) }));
  if (line.ended_at) parts.push(`${word("ending", line.ending)} ${clock(line.ended_at, now, true)}`);
  return `${parts.join(", ")}; ${money(line.cost)}`;
}
