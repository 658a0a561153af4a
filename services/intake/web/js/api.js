// Calls of the HTTP API of this origin. The key is kept for this tab only.

const KEY = "spotreel.key";

export function key() {
  try { return sessionStorage.getItem(KEY) || ""; } catch { return ""; }
}

export function keepKey(value) {
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch { /* the browser keeps nothing: the key is asked for again */ }
}

/** A refusal (RFC 9457), or no answer at all (status 0). */
export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || String(status));
    this.status = status;
    this.code = problem.code || "";
    this.violations = problem.violations || [];
    this.retryAfter = problem.retry_after_s;
  }
}

export function headers(more = {}) {
  const own = key();
  return own ? { ...more, Authorization: `Bearer ${own}` } : more;
}

/** Longer than the slowest answer of the API. */
const ANSWER_MS = 30000;
const UPLOAD_MS = 300000;

async function call(method, path, { json, body, type, more } = {}) {
  const said = { ...more };
  if (json !== undefined) said["Content-Type"] = "application/json";
  if (type) said["Content-Type"] = type;
  let answer;
  try {
    answer = await fetch(`/v1${path}`, {
      method, signal: AbortSignal.timeout(body ? UPLOAD_MS : ANSWER_MS), headers: headers(said), cache: "no-store",
      body: json !== undefined ? JSON.stringify(json) : body,
    });
  } catch (failure) {
    throw new Refused(0, { detail: failure.message });
  }
  const text = await answer.text();
  let value = null;
  try { value = text ? JSON.parse(text) : null; } catch { /* not JSON: a proxy's page */ }
  if (!answer.ok) throw new Refused(answer.status, value || {});
  return value;
}

const query = (parts) => {
  const given = Object.entries(parts || {}).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return given.length ? `?${new URLSearchParams(given)}` : "";
};

export const get = (path, parts) => call("GET", path + query(parts));
export const post = (path, json, more) => call("POST", path, { json, more });
export const remove = (path) => call("DELETE", path);
export const upload = (path, file) => call("POST", path, { body: file, type: file.type || "application/octet-stream" });
