// What the page knows: read from the API, kept up to date by one stream of events, and told to whoever draws.

import { get, key, post, Refused, remove } from "./api.js";
import { follow } from "./stream.js";

/** A phone shows fewer, for what comes below the list is long to scroll to. */
const PAGE = innerWidth < 640 ? 12 : 30;
const MOST_TASKS = 300;
const VIDEOS = 12;
const BATCHES = 60;
/** Pages of the list may be short: this many are read for one screen. */
const MOST_PAGES = 6;
/** Between two looks at queues, rules and instances. */
const SOON_MS = 600;
const BUSY_MS = 2500;
const CALM_MS = 12000;
const BATCHES_MS = 20000;
/** A link to a video is asked for again a little before it ends. */
const LINK_MARGIN_MS = 60000;
const LINK_AFTER_MS = 300;

export const state = {
  connection: "lost",
  needsKey: false,
  failure: null,
  loaded: false,
  now: Date.now(),
  queue: null,
  why: null,
  fleet: null,
  batches: null,
  costs: null,
  alarms: null,
  tasks: [],
  cursor: null,
  listing: false,
  filter: { state: "", model: "", text: "" },
  videos: [],
  /** Finished videos by task, with links that end. */
  links: new Map(),
  story: null,
  receipt: null,
  dialog: null,
  preset: null,
  batch: null,
  notice: null,
};

const listeners = new Set();
let drawing = false;

export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Several changes of one moment are drawn once. */
export function set(changes) {
  Object.assign(state, changes);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    listeners.forEach((listener) => listener());
  });
}

/** Parts of the API that this server does not have, or not for this key. */
const missing = new Set();
const OPTIONAL = ["/queue", "/why", "/fleet", "/batches", "/costs", "/alarms", "/receipts", "/search"];
/** Without these the page still shows what is done: that they do not answer now is told where they would be. */
const EXTRAS = ["/costs", "/alarms"];

export const has = (path) => !missing.has(path);

/** The API's description says what there is, so nothing is asked for in vain. */
async function describe() {
  try {
    const paths = Object.keys((await get("/openapi.json")).paths);
    const has = (path) => paths.some((one) => one === `/v1${path}` || one.startsWith(`/v1${path}/`));
    OPTIONAL.filter((path) => !has(path)).forEach((path) => missing.add(path));
  } catch (refused) {
    trouble(refused);
  }
}

async function look(path, name, parts) {
  if (missing.has(path)) return;
  try {
    const value = await get(path, parts);
    set({ [name]: value, failure: null });
  } catch (refused) {
    if (!(refused instanceof Refused)) throw refused;
    if (refused.status === 404) missing.add(path);
    else if (EXTRAS.includes(path) && refused.status !== 401) set({ [name]: null });
    else trouble(refused);
  }
}

function trouble(refused) {
  if (refused.status === 401) return locked();
  set({ failure: refused.status ? refused.message : "offline" });
}

function locked() {
  stop();
  set({ needsKey: true, loaded: true });
}

// --- queues, rules, machines ---

let timer = 0;
let due = 0;
let looking = false;
let soon = false;
let seenBatches = "";
let batchesAt = 0;

const isBusy = () => state.fleet?.pools?.some((pool) => pool.instances.length || pool.own?.length)
  || state.why?.pools?.some((pool) => pool.view.queued > 0)
  || state.queue?.queues?.some((one) => one.waiting + one.taken > 0);

async function lookAround() {
  timer = 0;
  if (looking) return;
  looking = true;
  soon = false;
  try {
    if (!document.hidden) await lookOnce();
  } finally {
    looking = false;
    if (running) lookIn(soon ? SOON_MS : isBusy() ? BUSY_MS : CALM_MS);
  }
}

/** At this time, or earlier if that is planned. */
function lookIn(wait) {
  const at = Date.now() + wait;
  if (timer && due <= at) return;
  clearTimeout(timer);
  due = at;
  timer = setTimeout(lookAround, wait);
}

/** Something has happened. However much happens, looks keep their distance, and come. */
function lookSoon() {
  if (looking) soon = true;
  else lookIn(SOON_MS);
}

async function lookOnce() {
  await Promise.all([look("/queue", "queue"), look("/why", "why"), look("/fleet", "fleet"), look("/alarms", "alarms")]);
  if (missing.has("/fleet") && state.tasks.some((task) => task.state === "started")) await steps();
  // A batch that changed its state is looked at at once.
  const now = (state.fleet?.pools || []).map((pool) => `${pool.batch?.id} ${pool.batch?.status}`).join();
  if (now !== seenBatches || Date.now() - batchesAt > BATCHES_MS) {
    seenBatches = now;
    batchesAt = Date.now();
    await Promise.all([look("/batches", "batches", { limit: BATCHES }), look("/costs", "costs")]);
  }
}

/** A key of one owner does not see the machines: how far its renders are is read from its tasks. */
async function steps() {
  try {
    const { tasks } = await get("/tasks", { state: "started", limit: PAGE });
    const found = new Map(tasks.map((task) => [task.id, task]));
    set({ tasks: state.tasks.map((task) => found.get(task.id) || task) });
  } catch { /* the next look may succeed */ }
}

// --- tasks ---

let listed = 0;

function wanted(task) {
  const { state: named, model, text } = state.filter;
  if (named && task.state !== named) return false;
  if (model && task.model !== model) return false;
  const asked = askedFor(text);
  // Only the server knows these: what it has found is brought up to date, and nothing is added.
  if ((asked.text || asked.batch) && !state.tasks.some((one) => one.id === task.id)) return false;
  if (asked.owner && task.owner !== asked.owner) return false;
  if (asked.id_prefix && !task.id.startsWith(asked.id_prefix)) return false;
  if (asked.label) {
    const [name, ...value] = asked.label.split("=");
    if (!(name in (task.labels || {})) || (value.length && task.labels[name] !== value.join("="))) return false;
  }
  return true;
}

/** A filter as people write it: `owner:anna`, `customer=17`, the beginning of an id; with a search also `batch:night-7` and words. */
export function askedFor(text) {
  const said = text.trim();
  if (!said) return {};
  if (said.startsWith("owner:")) return { owner: said.slice(6).trim() };
  if (has("/search") && said.startsWith("batch:")) return { batch: said.slice(6).trim() };
  if (/^[^\s"=]+=/.test(said)) return { label: said };
  const isId = /^[A-Za-z0-9_-]{1,64}$/.test(said);
  if (!has("/search")) return isId ? { id_prefix: said } : { label: said };
  return isId && /^[0-9a-f]{6,}(-|$)/.test(said) ? { id_prefix: said } : { text: said };
}

export async function list(more = false) {
  const mine = ++listed;
  const { state: named, model, text } = state.filter;
  set({ listing: true });
  try {
    let cursor = more ? state.cursor : undefined;
    const found = more ? [...state.tasks] : [];
    const enough = found.length + PAGE;
    for (let page = 0; page < MOST_PAGES && found.length < enough; page += 1) {
      const asked = askedFor(text);
      const parts = { limit: PAGE, state: named, model, cursor, ...asked };
      const answer = await get(asked.text || asked.batch ? "/search" : "/tasks", parts);
      if (mine !== listed) return;
      const known = new Set(found.map((task) => task.id));
      found.push(...answer.tasks.filter((task) => !known.has(task.id)));
      cursor = answer.next_cursor;
      if (cursor === undefined || cursor === null) break;
    }
    set({ tasks: found.slice(0, MOST_TASKS), cursor: cursor ?? null, listing: false, loaded: true, failure: null });
  } catch (refused) {
    if (mine !== listed) return;
    set({ listing: false, loaded: true });
    trouble(refused);
  }
}

export function filter(changes) {
  set({ filter: { ...state.filter, ...changes }, tasks: [], cursor: null });
  return list();
}

function changed(task) {
  const others = state.tasks.filter((one) => one.id !== task.id);
  const before = state.tasks.find((one) => one.id === task.id);
  const tasks = wanted(task) ? [{ ...before, ...task }, ...others].slice(0, Math.max(PAGE, state.tasks.length)) : others;
  const story = state.story?.id === task.id ? { ...state.story, ...task } : state.story;
  set({ tasks, story });
  if (task.state === "succeeded") addVideo(task);
  if (story && story === state.story && story.id === task.id) open(task.id);
}

// --- videos ---

async function listVideos() {
  try {
    const { tasks } = await get("/tasks", { state: "succeeded", limit: VIDEOS });
    set({ videos: tasks });
    linkSoon();
  } catch (refused) {
    trouble(refused);
  }
}

function addVideo(task) {
  set({ videos: [task, ...state.videos.filter((one) => one.id !== task.id)].slice(0, VIDEOS) });
  linkSoon();
}

let linking = 0;

/** Many videos that are ready at once are asked for once, as far as they are still shown then. */
function linkSoon() {
  linking ||= setTimeout(() => {
    linking = 0;
    state.videos.forEach((task) => link(task.id));
  }, LINK_AFTER_MS);
}

/** Asks for a fresh link to the task's video, if the one that is known ends soon. */
export async function link(id) {
  const known = state.links.get(id);
  if (known && Date.parse(known.url_expires_at) - Date.now() > LINK_MARGIN_MS) return;
  try {
    const task = await get(`/tasks/${id}`);
    if (task.video) {
      state.links.set(id, task.video);
      set({});
    }
  } catch { /* removed meanwhile: the card stays without a picture */ }
}

// --- one task ---

let storyTimer = 0;

export async function open(id) {
  if (state.dialog !== "story" || state.story?.id !== id) {
    set({ dialog: "story", receipt: null, story: state.tasks.find((one) => one.id === id) || { id } });
  }
  clearTimeout(storyTimer);
  try {
    const task = await get(`/tasks/${id}`);
    if (state.story?.id !== id) return;
    if (task.video) state.links.set(id, task.video);
    set({ story: task });
    if (task.state === "started") storyTimer = setTimeout(() => state.story?.id === id && !document.hidden && open(id), 2000);
    else if (has("/receipts") && task.attempts?.length) await receipt(id);
  } catch (refused) {
    if (state.story?.id === id) set({ story: { id, gone: refused.message } });
  }
}

async function receipt(id) {
  try {
    const found = await get(`/receipts/tasks/${id}`);
    if (state.story?.id === id) set({ receipt: found });
  } catch { /* this server keeps no receipts of tasks, or not of this one */ }
}

export function close() {
  clearTimeout(storyTimer);
  set({ dialog: null, story: null, preset: null, batch: null });
}

export async function retry(id) {
  return act(() => post(`/tasks/${id}/retry`), "said.retried");
}

export async function cancel(id) {
  return act(() => remove(`/tasks/${id}`), "said.cancelled");
}

async function act(order, said) {
  try {
    const task = await order();
    changed(task);
    tell(said);
    lookSoon();
  } catch (refused) {
    tell("said.failed", { why: refused.message }, true);
  }
}

let telling = 0;

export function tell(name, values = {}, bad = false) {
  clearTimeout(telling);
  set({ notice: { name, values, bad } });
  telling = setTimeout(() => set({ notice: null }), bad ? 9000 : 4000);
}

// --- the whole ---

let running = false;
let unfollow = null;
let tick = 0;

export function start() {
  if (running) return;
  running = true;
  missing.clear();
  set({ needsKey: false });
  unfollow = follow("/events", heard, turned);
  tick = setInterval(() => document.hidden || set({ now: Date.now() }), 1000);
  document.addEventListener("visibilitychange", seen);
  describe().then(lookAround);
}

/** A connection that begins anew tells of what comes: what was before is read after it has begun, so that nothing falls between. */
function turned(connection, fresh) {
  if (connection === "refused") return locked();
  set({ connection });
  if (fresh || !state.loaded) {
    list();
    listVideos();
  }
}

function stop() {
  if (!running) return;
  running = false;
  unfollow?.();
  clearTimeout(timer);
  timer = 0;
  clearInterval(tick);
  document.removeEventListener("visibilitychange", seen);
}

function seen() {
  if (document.hidden) return;
  set({ now: Date.now() });
  lookSoon();
  if (state.dialog === "story" && state.story) open(state.story.id);
}

function heard(name, event) {
  if (name === "reset") {
    list();
    listVideos();
    return;
  }
  const task = event.data;
  if (task?.id && task.state && task.model) changed(task);
  lookSoon();
}

export function restart() {
  stop();
  set({ loaded: false, tasks: [], videos: [], why: null, fleet: null, queue: null, batches: null, costs: null, alarms: null });
  start();
}

export const hasKey = () => key() !== "";
