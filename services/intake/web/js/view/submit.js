// A form for one or several tasks, with the quote for what is in it. Models, sizes and lengths come from the API's description.

import { html, useEffect, useMemo, useRef, useState } from "../../vendor/htm-preact.js";
import { get, post, upload } from "../api.js";
import { money, number, span } from "../format.js";
import { t, word } from "../i18n.js";
import { close, open, tell } from "../store.js";
import { Dialog } from "./frame.js";

const FPS = { "ti2v-5B": 24 };
const USUAL_FPS = 16;
const QUOTE_AFTER_MS = 350;
const MOST_COPIES = 50;
const LENGTHS = 6;
const MOST_OFFERS = 4;

let described = null;

async function describe() {
  const document = await get("/openapi.json");
  const list = (part) => part?.enum || part?.anyOf?.find((one) => one.enum)?.enum || [];
  described = document.components.schemas.TaskRequest.oneOf.map((model) => ({
    name: model.title,
    needsImage: model.required.includes("image"),
    takesImage: "image" in model.properties,
    sizes: list(model.properties.size),
    frames: list(model.properties.frames),
  }));
  return described;
}

export function Submit({ s }) {
  const preset = s.preset || {};
  const [models, setModels] = useState(described);
  const [form, setForm] = useState({
    model: preset.model || "ti2v-5B", prompt: preset.prompt || "", negative_prompt: preset.negative_prompt || "",
    size: preset.width ? `${preset.width}x${preset.height}` : "",
    frames: preset.frames || "", quality: preset.quality || "", steps: "", seed: "", priority: preset.priority || "normal", label: "", copies: 1, preview: false,
  });
  const [picture, setPicture] = useState(null);
  const [quote, setQuote] = useState(null);
  const [refused, setRefused] = useState(null);
  const [busy, setBusy] = useState(false);
  // The same form sent twice, after an answer that was lost, is the same tasks.
  const once = useRef(crypto.randomUUID?.() || String(Math.random()).slice(2));

  useEffect(() => { if (!models) describe().then(setModels, setRefused); }, []);
  const model = models?.find((one) => one.name === form.model);
  const frames = useMemo(() => lengths(model?.frames || []), [model]);
  const task = useMemo(() => request(form, model, picture), [form, model, picture]);
  const question = JSON.stringify({ task: { ...task, prompt: "", image: undefined, labels: undefined }, tasks: copies(form) });

  useEffect(() => {
    if (!model) return undefined;
    let current = true;
    const wait = setTimeout(async () => {
      try {
        const answer = await post("/quotes", JSON.parse(question));
        if (current) setQuote(answer);
      } catch (failure) {
        if (current) setQuote({ failure: failure.message });
      }
    }, QUOTE_AFTER_MS);
    return () => { current = false; clearTimeout(wait); };
  }, [question, model]);

  const put = (changes) => { setRefused(null); setForm({ ...form, ...changes }); };
  const field = (name) => ({ value: form[name], onInput: (event) => put({ [name]: event.target.value }) });
  const wrong = (name) => refused?.violations?.find((one) => one.field === name || one.field.startsWith(`${name}.`))?.message;

  async function choose(event) {
    const file = event.target.files[0];
    setPicture(null);
    setRefused(null);
    if (!file) return;
    setBusy(true);
    try {
      setPicture(await upload("/images", file));
    } catch (failure) {
      event.target.value = "";
      setRefused({ message: failure.message, violations: [{ field: "image", message: failure.message }] });
    }
    setBusy(false);
  }

  async function send(event) {
    event.preventDefault();
    setBusy(true);
    try {
      const all = copies(form);
      const more = { "Idempotency-Key": `page-${once.current}` };
      if (all === 1) {
        const accepted = await post("/tasks", task, more);
        tell("said.submitted", { n: 1 });
        close();
        open(accepted.id);
        return;
      }
      const seeds = form.seed === "" ? undefined : Number(form.seed);
      const answer = await post("/tasks", Array.from({ length: all }, (_, index) => (seeds === undefined ? task : { ...task, seed: seeds + index })), more);
      const bad = answer.results.find((one) => one.error);
      if (bad) setRefused({ message: bad.error.message, violations: bad.error.violations || [] });
      else close();
      if (answer.accepted) tell("said.submitted", { n: answer.accepted });
    } catch (failure) {
      setRefused(failure);
    }
    setBusy(false);
  }

  return html`<${Dialog} title=${t("submit.title")} onClose=${close}>
    <form class="submit" onSubmit=${send}>
      <${Field} name="prompt" wrong=${wrong("prompt")}><textarea id="f-prompt" rows="4" required autofocus ...${field("prompt")}
        placeholder=${t("submit.example")} aria-describedby="f-prompt-wrong"></textarea><//>
      <div class="fields">
        <${Field} name="model" wrong=${wrong("model")}><select id="f-model" value=${form.model}
          onChange=${(event) => put({ model: event.target.value, size: "", frames: "" })}>
          ${(models || []).map((one) => html`<option key=${one.name} value=${one.name}>${one.name} · ${t(`model.${one.name}`)}</option>`)}</select><//>
        <${Field} name="size" wrong=${wrong("size")}><select id="f-size" value=${form.size} onChange=${(event) => put({ size: event.target.value })}>
          <option value="">${model?.takesImage && picture ? t("submit.of_picture") : t("submit.usual", { value: model?.sizes[0] || "" })}</option>
          ${(model?.sizes || []).map((one) => html`<option key=${one} value=${one}>${one}</option>`)}</select><//>
        <${Field} name="frames" wrong=${wrong("frames")}><select id="f-frames" value=${String(form.frames)} onChange=${(event) => put({ frames: event.target.value })}>
          <option value="">${t("submit.longest")}</option>
          ${frames.map((one) => html`<option key=${one} value=${one}>${t("submit.length", { span: span2(one, form.model), frames: one })}</option>`)}</select><//>
        <${Field} name="quality" wrong=${wrong("quality")}><select id="f-quality" value=${form.quality}
          onChange=${(event) => put({ quality: event.target.value, steps: "" })}>
          <option value="">${word("quality", "usual")}</option>
          ${["fast", "standard", "best"].map((one) => html`<option key=${one} value=${one}>${word("quality", one)}</option>`)}</select><//>
      </div>
      ${model?.takesImage && html`<${Field} name=${model.needsImage ? "image" : "optional_image"} id="image" wrong=${wrong("image")}
        note=${picture ? t("submit.picture", { size: `${picture.width}×${picture.height}` }) : ""}>
        <input id="f-image" type="file" accept="image/png,image/jpeg,image/webp" required=${model.needsImage && !picture} onChange=${choose} /><//>`}
      <details class="submit-more"><summary>${t("submit.more")}</summary>
        <${Field} name="negative_prompt" wrong=${wrong("negative_prompt")}><textarea id="f-negative_prompt" rows="2" ...${field("negative_prompt")}></textarea><//>
        <div class="fields">
          <${Field} name="steps" wrong=${wrong("steps")}><input id="f-steps" type="number" min="1" max="100"
            disabled=${form.quality !== ""} ...${field("steps")} placeholder=${t("submit.default")} /><//>
          <${Field} name="seed" wrong=${wrong("seed")}><input id="f-seed" type="number" min="0" ...${field("seed")} placeholder=${t("submit.random")} /><//>
          <${Field} name="copies"><input id="f-copies" type="number" min="1" max=${MOST_COPIES} ...${field("copies")} /><//>
          <${Field} name="priority"><select id="f-priority" value=${form.priority} onChange=${(event) => put({ priority: event.target.value })}>
            ${["normal", "high"].map((one) => html`<option key=${one} value=${one}>${word("priority", one)}</option>`)}</select><//>
          <${Field} name="label" wrong=${wrong("labels")}><input id="f-label" ...${field("label")} placeholder="customer=17" pattern="[^=]+=.*" /><//>
        </div>
        <label class="check"><input type="checkbox" checked=${form.preview} onChange=${(event) => put({ preview: event.target.checked })} />
          ${t("submit.preview")}</label>
      </details>
      <${Quote} quote=${quote} copies=${copies(form)} />
      ${refused && html`<p class="wrong" role="alert">${refused.message}</p>`}
      <div class="actions end"><button class="button" type="button" onClick=${close}>${t("close")}</button>
        <button class="primary" type="submit" disabled=${busy || !model}>${busy ? t("submit.busy") : t("submit.send", { n: copies(form) })}</button></div>
    </form><//>`;
}

function Field({ name, id = name, wrong, note, children }) {
  return html`<div class=${`field ${wrong ? "is-wrong" : ""}`}><label for=${`f-${id}`}>${t(`field.${name}`)}</label>${children}
    <p class="wrong small" id=${`f-${id}-wrong`}>${wrong || ""}</p>${note && html`<p class="small muted">${note}</p>`}</div>`;
}

const copies = (form) => Math.max(1, Math.min(MOST_COPIES, Math.floor(Number(form.copies) || 1)));
const fps = (model) => FPS[model] || USUAL_FPS;
const span2 = (frames, model) => `${number(frames / fps(model), 1)} ${t("unit.s")}`;

/** A few lengths of many: the shortest, the longest, and some between. */
function lengths(frames) {
  if (frames.length <= LENGTHS) return frames;
  return Array.from({ length: LENGTHS }, (_, index) => frames[Math.round((index * (frames.length - 1)) / (LENGTHS - 1))]);
}

function request(form, model, picture) {
  const task = { model: form.model, prompt: form.prompt };
  if (form.negative_prompt.trim()) task.negative_prompt = form.negative_prompt;
  if (form.size && model?.sizes.includes(form.size)) task.size = form.size;
  if (form.frames && model?.frames.includes(Number(form.frames))) task.frames = Number(form.frames);
  if (form.quality) task.quality = form.quality;
  else if (form.steps !== "") task.steps = Number(form.steps);
  if (form.seed !== "") task.seed = Number(form.seed);
  if (form.priority !== "normal") task.priority = form.priority;
  if (form.preview) task.preview = true;
  const [name, ...value] = form.label.split("=");
  if (name && value.length) task.labels = { [name.trim()]: value.join("=").trim() };
  if (picture && model?.takesImage) task.image = { s3_key: picture.s3_key };
  return task;
}

function Quote({ quote, copies: all }) {
  if (!quote) return html`<div class="quote" aria-busy="true"><p class="muted small">${t("quote.asking")}</p></div>`;
  if (quote.failure) return html`<div class="quote"><p class="muted small">${quote.failure}</p></div>`;
  if (!quote.offers.length) return html`<div class="quote"><p class="small" lang="en">${quote.none}</p></div>`;
  const best = quote.offers[0];
  const notes = [best.measured ? "measured" : "modelled", "boot"];
  if (quote.offers.some((one) => one.price === "cap")) notes.push("cap");
  return html`<div class="quote" aria-live="polite">
    <p class="lead">${t("quote.best", { n: all, money: money(best.all), span: span(best.all_seconds) })}</p>
    <table class="plain"><thead><tr><th>${t("quote.kind")}</th>
        ${["time", "hour", "video"].map((name) => html`<th key=${name} class="n">${t(`quote.${name}`)}</th>`)}</tr></thead>
      <tbody>${quote.offers.slice(0, MOST_OFFERS).map((one) => html`<tr key=${one.kind}>
        <th scope="row">${one.kind} <span class="muted">${one.gpu}</span></th><td class="n">${span(one.seconds)}</td>
        <td class="n">${money(one.per_hour)}${one.price === "cap" ? "*" : ""}</td><td class="n">${money(one.per_video)}</td></tr>`)}</tbody></table>
    <p class="small muted">${notes.map((name) => t(`quote.${name}`)).join(" ")}</p></div>`;
}
