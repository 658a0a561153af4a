// Server-sent events by fetch, because EventSource cannot send a key: one stream a tab, none while the tab is hidden.

import { headers } from "./api.js";

const LONGEST_PAUSE_MS = 15000;
/** The server says something every 15 seconds; a connection that is silent for longer is dead. */
const SILENCE_MS = 40000;
/** After so long in the background, reading everything again is less than hearing all that was missed. */
const STALE_MS = 600000;

/**
 * Follows `path` until the returned function is called. `heard` gets each event, `turned` each change of the connection:
 * "live", "lost" or "refused". After a lost connection it continues with the event after the last one; where it cannot, and what was
 * before has to be read elsewhere, the second argument of `turned` is true.
 */
export function follow(path, heard, turned) {
  let last = "";
  let stop = null;
  let closed = false;
  let failures = 0;
  let timer = 0;

  async function run() {
    const ending = new AbortController();
    stop = ending;
    let quiet = setTimeout(() => ending.abort(), SILENCE_MS);
    try {
      const more = { Accept: "text/event-stream" };
      if (last) more["Last-Event-ID"] = last;
      const answer = await fetch(`/v1${path}`, { headers: headers(more), signal: ending.signal, cache: "no-store" });
      if (answer.status === 401) {
        closed = true;
        turned("refused");
        return;
      }
      if (!answer.ok || !answer.body) throw new Error(String(answer.status));
      failures = 0;
      turned("live", !last);
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        clearTimeout(quiet);
        quiet = setTimeout(() => ending.abort(), SILENCE_MS);
        text += value;
        for (let end; (end = text.search(/\r?\n\r?\n/)) >= 0;) {
          const block = text.slice(0, end);
          text = text.slice(end).replace(/^\r?\n\r?\n/, "");
          tell(block);
        }
      }
    } catch { /* lost: the next try follows */ } finally {
      clearTimeout(quiet);
      if (stop === ending) {
        stop = null;
        again();
      }
    }
  }

  function tell(block) {
    let name = "message";
    const data = [];
    let id;
    for (const line of block.split(/\r?\n/)) {
      if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("id:")) id = line.slice(3).trim();
    }
    if (id !== undefined) last = id;
    if (!data.length) return;
    let value;
    try { value = JSON.parse(data.join("\n")); } catch { return; }
    heard(name, value);
  }

  function again() {
    if (closed || document.hidden) return;
    turned("lost");
    failures += 1;
    const pause = Math.min(LONGEST_PAUSE_MS, 500 * 2 ** Math.min(failures, 6)) * (0.5 + Math.random() / 2);
    timer = setTimeout(run, failures === 1 ? 300 : pause);
  }

  function drop() {
    clearTimeout(timer);
    const ending = stop;
    stop = null;
    if (ending) ending.abort();
  }

  let hiddenAt = 0;

  function looked() {
    if (closed) return;
    drop();
    if (document.hidden) {
      hiddenAt = Date.now();
      return;
    }
    if (Date.now() - hiddenAt > STALE_MS) last = "";
    run();
  }

  document.addEventListener("visibilitychange", looked);
  if (!document.hidden) run();
  return () => {
    closed = true;
    document.removeEventListener("visibilitychange", looked);
    drop();
  };
}
