// Asks for a key, where the API wants one.

import { html, useState } from "../../vendor/htm-preact.js";
import { get, keepKey } from "../api.js";
import { restart } from "../store.js";
import { t } from "../i18n.js";

export function Key() {
  const [wrong, setWrong] = useState("");
  const [busy, setBusy] = useState(false);
  async function enter(event) {
    event.preventDefault();
    const given = new FormData(event.target).get("key").trim();
    keepKey(given);
    setBusy(true);
    try {
      await get("/tasks", { limit: 1 });
      restart();
    } catch (refused) {
      keepKey("");
      setWrong(refused.message);
    }
    setBusy(false);
  }
  return html`<form class="key-form panel" onSubmit=${enter}>
    <h2>${t("key.title")}</h2>
    <p class="muted">${t("key.why")}</p>
    <label for="key">${t("key.label")}</label>
    <input id="key" name="key" type="password" required autocomplete="off" spellcheck="false" placeholder="spotreel_…"
      aria-invalid=${wrong ? "true" : "false"} aria-describedby="key-wrong" />
    <p id="key-wrong" class="wrong" role="alert">${wrong}</p>
    <div class="actions"><button class="primary" type="submit" disabled=${busy}>${t("key.enter")}</button></div>
    <p class="muted small">${t("key.kept")}</p>
  </form>`;
}
