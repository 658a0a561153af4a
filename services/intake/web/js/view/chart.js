// Two small charts. Each is a picture for eyes and a table for everybody else.

import { html } from "../../vendor/htm-preact.js";
import { money } from "../format.js";

const HEIGHT = 64;

/** `bars`: [{ label, value, parts? }]. */
export function Bars({ bars, title, limit }) {
  const most = Math.max(...bars.map((bar) => bar.value), limit || 0, 1e-9);
  const width = 100 / bars.length;
  const y = (value) => HEIGHT - (value / most) * HEIGHT;
  return html`<figure class="chart">
    <svg viewBox=${`0 0 100 ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
      ${limit > 0 && html`<line class="limit" x1="0" x2="100" y1=${y(limit)} y2=${y(limit)} vector-effect="non-scaling-stroke" />`}
      ${bars.map((bar, index) => html`<g key=${bar.label}><title>${bar.label}: ${money(bar.value)}</title>
        <rect class="hit" x=${index * width} y="0" width=${width} height=${HEIGHT} />
        <rect class=${bar.value > 0 ? "fill" : "none"} x=${index * width + width * 0.12} width=${width * 0.76}
          y=${Math.min(y(bar.value), HEIGHT - 1)} height=${Math.max(HEIGHT - y(bar.value), 1)} /></g>`)}
    </svg>
    <div class="axis" aria-hidden="true"><span>${bars[0].label}</span><span>${bars[bars.length - 1].label}</span></div>
    <table class="unseen"><caption>${title}</caption><tbody>
      ${bars.filter((bar) => bar.value > 0).map((bar) => html`<tr key=${bar.label}><th scope="row">${bar.label}</th><td>${money(bar.value)}</td></tr>`)}
    </tbody></table></figure>`;
}

/** Points over time, with a line for each limit. `points`: [{ at, value, label, group }]. */
export function Points({ points, limits, title, from, to, labels }) {
  const most = Math.max(...points.map((point) => point.value), ...limits.map((one) => one.value)) * 1.12;
  const x = (at) => ((at - from) / Math.max(1, to - from)) * 100;
  const y = (value) => 100 - (value / most) * 100;
  const groups = [...new Set(points.map((point) => point.group))];
  return html`<figure class="chart points">
    <div class="plot" aria-hidden="true">
      ${limits.map((one) => html`<div class="cap" key=${one.label} style=${{ top: `${y(one.value)}%` }}><span>${one.label}</span></div>`)}
      ${points.map((point) => html`<i class=${`point g${groups.indexOf(point.group) % 4}`} key=${`${point.at} ${point.label}`} title=${point.label}
        style=${{ left: `${x(point.at)}%`, top: `${y(point.value)}%` }}></i>`)}
    </div>
    <div class="axis" aria-hidden="true"><span>${labels[0]}</span><span>${labels[1]}</span></div>
    <ul class="legend">${groups.map((group, index) => html`<li key=${group}><i class=${`point g${index % 4}`} aria-hidden="true"></i>${group}</li>`)}</ul>
    <table class="unseen"><caption>${title}</caption><tbody>
      ${points.map((point) => html`<tr key=${`${point.at} ${point.label}`}><td>${point.label}</td></tr>`)}
    </tbody></table></figure>`;
}

/** How far something is. Known to screen readers by its text beside it. */
export function Meter({ part, kind }) {
  const share = Math.max(0, Math.min(1, Number.isFinite(part) ? part : 0));
  return html`<span class=${`meter ${kind || ""}`} aria-hidden="true"><i style=${{ width: `${share * 100}%` }}></i></span>`;
}
