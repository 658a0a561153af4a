// The frame around everything: name, connection, switches; and what stands over the page.

import { Component, html, useLayoutEffect, useRef } from "../../vendor/htm-preact.js";
import { hasKey, restart, set } from "../store.js";
import { keepKey } from "../api.js";
import { lang, speak, t } from "../i18n.js";

export function Frame({ s, children }) {
  const theme = document.documentElement.dataset.theme || "auto";
  return html`
    <a class="skip" href="#main">${t("skip")}</a>
    <header class="bar">
      <div class="brand"><${Reel} /><span>spotreel</span></div>
      ${!s.needsKey && html`<${Connection} s=${s} />`}
      <div class="bar-end">
        <button class="quiet" type="button" lang=${lang() === "en" ? "zh-CN" : "en"}
          onClick=${() => { speak(lang() === "en" ? "zh-CN" : "en"); set({}); }}>${lang() === "en" ? "中文" : "English"}</button>
        <button class="quiet icon" type="button" aria-label=${t(`theme.${theme}`)} title=${t(`theme.${theme}`)}
          onClick=${() => turnTheme(theme)}><${Theme} theme=${theme} /></button>
        ${hasKey() && !s.needsKey && html`<button class="quiet" type="button"
          onClick=${() => { keepKey(""); restart(); }}>${t("key.leave")}</button>`}
        ${!s.needsKey && html`<button class="primary" type="button"
          onClick=${() => set({ dialog: "submit" })}>${t("submit.open")}</button>`}
      </div>
    </header>
    <main id="main" tabindex="-1"><h1 class="unseen">${t("title")}</h1>${children}</main>`;
}

function turnTheme(theme) {
  const next = { auto: "light", light: "dark", dark: "auto" }[theme];
  const root = document.documentElement;
  if (next === "auto") delete root.dataset.theme;
  else root.dataset.theme = next;
  try { localStorage.setItem("spotreel.theme", next); } catch { /* for this page only, then */ }
  set({});
}

function Reel() {
  return html`<svg class="reel" viewBox="0 0 32 32" aria-hidden="true">
    <circle cx="16" cy="16" r="14" /><circle class="hole" cx="16" cy="8.6" r="3" />
    <circle class="hole" cx="22.4" cy="19.7" r="3" /><circle class="hole" cx="9.6" cy="19.7" r="3" />
    <circle class="hole" cx="16" cy="16" r="1.6" /></svg>`;
}

function Theme({ theme }) {
  if (theme === "light") return html`<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="3.6" fill="currentColor" />
    <path stroke="currentColor" stroke-width="1.6" stroke-linecap="round" d="M10 1.8v2M10 16.2v2M1.8 10h2M16.2 10h2M4.2 4.2l1.4 1.4M14.4 14.4l1.4 1.4M4.2 15.8l1.4-1.4M14.4 5.6l1.4-1.4" /></svg>`;
  if (theme === "dark") return html`<svg viewBox="0 0 20 20" aria-hidden="true"><path fill="currentColor" d="M8.2 2.4a7.8 7.8 0 1 0 9.4 9.4A6.4 6.4 0 0 1 8.2 2.4z" /></svg>`;
  return html`<svg viewBox="0 0 20 20" aria-hidden="true"><circle cx="10" cy="10" r="7" fill="none" stroke="currentColor" stroke-width="1.6" /><path fill="currentColor" d="M10 3a7 7 0 0 1 0 14z" /></svg>`;
}

function Connection({ s }) {
  const live = s.connection === "live";
  return html`<div class=${`connection ${live ? "is-live" : ""}`} role="status">
    <span class="dot" aria-hidden="true"></span><span class="connection-word">${t(live ? "live" : "connecting")}</span></div>`;
}

export function Trouble({ s }) {
  if (!s.failure) return null;
  const text = s.failure === "offline" ? t("offline") : s.failure;
  return html`<p class="strip bad" role="alert">${text}</p>`;
}

export function Notice({ s }) {
  return html`<div class="notices" role="status" aria-live="polite">
    ${s.notice && html`<p class=${`notice ${s.notice.bad ? "bad" : ""}`}>${t(s.notice.name, s.notice.values)}</p>`}</div>`;
}

/** Keeps the rest of the page when a part of it cannot be drawn, such as an answer of another version. */
export class Guard extends Component {
  componentDidCatch(fault) {
    console.error(fault);
    this.setState({ fault });
  }

  render() {
    const { fault } = this.state;
    return fault ? html`<p class="strip bad" role="alert">${t("fault", { why: fault.message })}</p>` : this.props.children;
  }
}

/** A panel of the page. */
export function Panel({ title, aside, children, id, tight }) {
  return html`<section class=${`panel ${tight ? "tight" : ""}`} aria-labelledby=${`${id}-title`}>
    <div class="panel-head"><h2 id=${`${id}-title`}>${title}</h2>${aside && html`<div class="panel-aside">${aside}</div>`}</div>
    ${children}</section>`;
}

/** A window over the page; Escape and a click beside it close it, and the focus goes back to where it was. */
export function Dialog({ title, onClose, children, wide }) {
  const box = useRef(null);
  useLayoutEffect(() => {
    const dialog = box.current;
    const before = document.activeElement;
    if (!dialog.open) dialog.showModal();
    return () => {
      if (dialog.open) dialog.close();
      before?.focus?.();
    };
  }, []);
  return html`<dialog ref=${box} class=${wide ? "wide-dialog" : ""} aria-labelledby="dialog-title"
    onCancel=${(event) => { event.preventDefault(); onClose(); }}
    onMouseDown=${(event) => { if (event.target === box.current) onClose(); }}>
    <div class="dialog-head"><h2 id="dialog-title">${title}</h2>
      <button class="quiet icon" type="button" aria-label=${t("close")} onClick=${onClose}>
        <svg viewBox="0 0 20 20" aria-hidden="true"><path stroke="currentColor" stroke-width="1.8" stroke-linecap="round" d="M5 5l10 10M15 5L5 15" /></svg></button></div>
    <div class="dialog-body">${children}</div></dialog>`;
}
