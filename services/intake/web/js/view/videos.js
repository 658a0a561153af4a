// The newest videos, as a strip of film.

import { html } from "../../vendor/htm-preact.js";
import { ago, safe } from "../format.js";
import { t } from "../i18n.js";
import { open } from "../store.js";
import { Panel } from "./frame.js";

export function Videos({ s }) {
  if (!s.videos.length) return null;
  return html`<${Panel} id="videos" title=${t("videos.title")}>
    <ul class="film" tabindex="0" role="list" aria-label=${t("videos.title")}>
      ${s.videos.map((task) => html`<${Card} key=${task.id} task=${task} video=${s.links.get(task.id)} now=${s.now} />`)}</ul>
  <//>`;
}

function Card({ task, video, now }) {
  return html`<li><button class="card" type="button" onClick=${() => open(task.id)}>
    <span class="poster">
      ${video?.poster_url ? html`<img src=${video.poster_url} alt="" loading="lazy" />` : html`<span class="no-poster"></span>`}
      <svg class="play" viewBox="0 0 24 24" aria-hidden="true"><path d="M8 5.5v13l11-6.5z" /></svg></span>
    <span class="card-text">${safe(task.prompt)}</span>
    <span class="card-note">${task.model} · ${ago(task.at, now)}</span></button></li>`;
}
