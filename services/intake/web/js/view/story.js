// One task: its video or how far it is, what was asked for, and everything that happened to it.

import { html, useState } from "../../vendor/htm-preact.js";
import { bytes, clock, full, money, ms, safe, span } from "../format.js";
import { t, word } from "../i18n.js";
import { cancel, close, retry, set } from "../store.js";
import { Meter } from "./chart.js";
import { Lines } from "./cost.js";
import { Dialog } from "./frame.js";
import { canCancel, canRetry, State } from "./tasks.js";

export function Story({ s }) {
  const task = s.story;
  const leave = () => {
    if (location.hash.startsWith("#task=")) history.replaceState(null, "", location.pathname + location.search);
    close();
  };
  if (task.gone) return html`<${Dialog} title=${task.id} onClose=${leave}><p class="wrong">${task.gone}</p><//>`;
  if (!task.model) return html`<${Dialog} title=${task.id} onClose=${leave}><p class="muted">${t("loading")}</p><//>`;
  const video = task.state === "succeeded" ? s.links.get(task.id) : null;
  return html`<${Dialog} title=${t("story.title")} onClose=${leave} wide=${true}>
    <div class="story">
      <div class="story-left"><${Picture} task=${task} video=${video} />
        <blockquote class="story-prompt">${safe(task.prompt)}</blockquote>
        <div class="actions">
          ${video?.url && html`<a class="button" href=${video.url} download=${`${task.id}.mp4`} target="_blank" rel="noopener noreferrer">${t("story.download")}</a>`}
          ${canRetry(task) && html`<button class="primary" type="button" onClick=${() => retry(task.id)}>${t("retry")}</button>`}
          <button class="button" type="button" onClick=${() => set({ dialog: "submit", story: null, preset: task })}>${t("story.again")}</button>
          ${canCancel(task) && html`<button class="button danger" type="button" onClick=${() => cancel(task.id)}>${t("cancel")}</button>`}
          <${Address} id=${task.id} />
        </div></div>
      <div class="story-right">
        <p class="story-state"><${State} task=${task} now=${s.now} /> <span class="muted">${clock(task.at, s.now)}</span></p>
        ${task.error && html`<p class="block bad"><b>${word("failure", task.error.kind)}</b> <span lang="en">${safe(task.error.message)}</span></p>`}
        <h3>${t("story.events")}</h3><${Events} task=${task} now=${s.now} />
        <${Receipt} receipt=${s.receipt} />
        <h3>${t("story.asked")}</h3><${Asked} task=${task} />
      </div></div><//>`;
}

function Picture({ task, video }) {
  const shape = { aspectRatio: `${task.width} / ${task.height}` };
  if (video?.url) {
    return html`<video class="screen" style=${shape} controls loop playsinline preload="metadata"
      poster=${video.poster_url || ""} src=${video.url} aria-label=${safe(task.prompt)}></video>`;
  }
  if (task.state === "started") {
    const { preview_image: preview, step, steps, eta_s: left } = task;
    const told = [t("story.step", { step: step ?? 0, steps }), left && t("tasks.eta", { span: span(left) })].filter(Boolean);
    return html`<div class="screen waiting" style=${shape}>
      ${preview && html`<img src=${preview.url} alt=${t("story.preview", { step: preview.step })} />`}
      <div class="screen-text"><span>${task.phase ? word("phase", task.phase) : t("state.started")}</span>
        <${Meter} part=${(step || 0) / steps} kind="busy" /><span>${told.join(" · ")}</span></div></div>`;
  }
  return html`<div class="screen waiting" style=${shape}><div class="screen-text"><span>${t(`story.no_video.${task.state}`)}</span></div></div>`;
}

function Address({ id }) {
  const [said, setSaid] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(id);
      setSaid(true);
      setTimeout(() => setSaid(false), 2000);
    } catch { /* no clipboard without https: the id is in the list below */ }
  };
  return html`<button class="button" type="button" onClick=${copy}>${said ? t("story.copied") : t("story.copy")}</button>`;
}

function Events({ task, now }) {
  const all = [{ at: task.submitted_at, kind: "queued", text: t("event.submitted", { owner: task.owner ? ` · ${task.owner}` : "" }) }];
  for (const one of task.attempts || []) {
    const from = one.from_step > 0 ? t("event.from_step", { step: one.from_step }) : "";
    all.push({ at: one.started_at, kind: "started", text: t("event.started", { instance: one.instance }), note: from });
    if (one.ended_at) {
      const took = span((ms(one.ended_at) - ms(one.started_at)) / 1000);
      const note = [t("event.after", { span: took }), one.error && safe(one.error.message)].filter(Boolean).join(" · ");
      all.push({ at: one.ended_at, kind: one.outcome, text: t(`outcome_of.${one.outcome}`), note });
    }
  }
  if (["cancelled", "expired"].includes(task.state)) all.push({ at: task.at, kind: task.state, text: t(`state.${task.state}`) });
  return html`<ol class="events">${all.map((one, index) => html`<li key=${index} class=${one.kind}>
    <time dateTime=${one.at} title=${full(one.at)}>${clock(one.at, now, true)}</time>
    <span>${one.text}${one.note && html`<span class="muted"> ${one.note}</span>`}</span></li>`)}</ol>`;
}

/** As the ledger tells it; absent where the server keeps no receipts of tasks. */
function Receipt({ receipt }) {
  if (!receipt) return null;
  const total = Number(receipt.total);
  return html`<h3>${t("story.receipt")}${receipt.final ? "" : ` · ${t("story.not_final")}`}</h3>
    <p class="story-total"><b>${money(total)}</b>
      ${receipt.unpriced_attempts > 0 && html` <span class="muted small">${t("story.unpriced", { n: receipt.unpriced_attempts })}</span>`}</p>
    <${Lines} lines=${receipt.lines} />`;
}

function Asked({ task }) {
  const rows = [
    ["id", html`<code>${task.id}</code>`],
    ["model", `${task.model}${task.quality ? ` · ${word("quality", task.quality)}` : ""}`],
    ["size", `${task.width}×${task.height}, ${task.frames} / ${task.fps} fps = ${span(task.frames / task.fps)}`],
    ["steps", `${task.steps} · ${t("story.guidance", { guidance: task.guidance, shift: task.shift })}`],
    ["seed", html`<code>${task.seed}</code>`],
    ["priority", word("priority", task.priority)],
    task.negative_prompt && ["negative", safe(task.negative_prompt)],
    task.loras?.length && ["loras", task.loras.map((one) => `${one.name} ${one.strength}`).join(", ")],
    Object.keys(task.labels || {}).length > 0 && ["labels", Object.entries(task.labels).map(([name, value]) => `${safe(name)}=${safe(value)}`).join(", ")],
    task.expires_at && ["expires", full(task.expires_at)],
    task.video && ["video", `${bytes(task.video.bytes)} · ${task.video.engine}`],
  ].filter(Boolean);
  return html`<dl class="asked">${rows.map(([name, value]) => html`<div key=${name}><dt>${t(`asked.${name}`)}</dt><dd>${value}</dd></div>`)}</dl>`;
}
