// A batch from its first task to its videos, as a person sees it on the page.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { api, close, cloud, isAccessible, number, open, picture, until } from "./browser.js";

const STEPS = 24;
const PROMPTS = [
  "A red fox walks through fresh snow at dawn, soft light, slow camera",
  "Steam rises from a cup of coffee on a wooden table, macro",
  "一只狐狸走过新雪，清晨的柔光，缓慢的镜头",
  "A tram crosses a bridge in the evening rain, reflections on wet stone",
  "Paper boats drift down a stream in autumn",
  "Northern lights over a frozen lake, time lapse",
];
const HOSTILE = "<img src=x onerror=\"document.title='taken'\"> <b>bold</b> \u202eright to left";

const submit = (prompt, more = {}) => api("POST", "/tasks", { model: "ti2v-5B", prompt, frames: 49, steps: STEPS, ...more });

/** `spotreel dev` starts it again, at the same address. */
function killIntake() {
  const endpoints = readFileSync(`${process.env.SPOTREEL_DIR}/endpoints.env`, "utf8");
  const { host } = new URL(/^SPOTREEL_API=(.*)$/m.exec(endpoints)[1]);
  const pid = execFileSync("pgrep", ["-f", `spotreel-intake .*--set api.listen=${host} `], { encoding: "utf8" });
  process.kill(Number(pid), "SIGKILL");
}

let page;
before(async () => { page = await open(); });
after(close);

test("an empty system says what a batch waits for", async () => {
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByText("Nothing waits.", { exact: false }).waitFor();
  await page.getByText("6 more tasks").waitFor();
  await isAccessible(page, "the empty page");
  await picture(page, "empty");
});

test("tasks that arrive are shown at once, with what the rule still lacks", async () => {
  for (const prompt of PROMPTS.slice(0, 3)) await submit(prompt, { labels: { customer: "17" } });
  await submit(HOSTILE, { priority: "high" });
  await until("four tasks wait", async () => (await number(page, "Waiting")) === 4);
  await page.getByText("2 more tasks").waitFor();
  await page.getByText("high priority").waitFor();
  await picture(page, "waiting");
});

test("a prompt is text, whatever is in it", async () => {
  const shown = page.locator(".prompt", { hasText: "<img src=x" });
  await shown.waitFor();
  assert.ok((await shown.textContent()).includes("□right to left"), "what would turn the line is shown as a box");
  assert.equal(await page.locator("main img[src='x'], .prompt b").count(), 0);
  assert.equal(await page.title(), "spotreel");
});

test("the form shows a quote, refuses with a reason, and submits", async () => {
  await page.getByRole("button", { name: "New task" }).first().click();
  const form = page.getByRole("dialog");
  await form.getByText("About $", { exact: false }).waitFor();
  await isAccessible(page, "the form");
  await picture(page, "form");
  await form.getByLabel("Prompt", { exact: true }).fill("A potter shapes a bowl, close view of the hands");
  await form.getByText("More settings").click();
  await form.getByLabel("Steps").fill(String(STEPS));
  await form.getByLabel("Seed").fill("99999999999999999999");
  await form.getByRole("button", { name: "Submit" }).click();
  await form.locator(".is-wrong", { has: page.getByLabel("Seed") }).waitFor();
  page.wrong = page.wrong.filter((text) => !text.includes("status of 400"));
  await form.getByLabel("Seed").fill("7");
  await form.getByLabel("Length").selectOption({ index: 2 });
  await form.getByRole("button", { name: "Submit" }).click();
  await page.getByRole("dialog").getByText("Waiting for a worker").waitFor();
  assert.equal(await page.locator("dialog[open]").count(), 1);
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
});

test("the batch runs: the queue falls, workers step, an interruption appears", async () => {
  for (const prompt of [...PROMPTS.slice(3), ...PROMPTS]) await submit(prompt, { preview: true });
  const first = await until("the batch is shown", async () => {
    const rows = page.locator(".timeline tbody tr");
    return (await rows.count()) > 0 && number(page, "Waiting");
  });
  const steps = new Set();
  const waiting = new Set([first]);
  await until("workers step", async () => {
    for (const text of await page.locator(".timeline .doing .small").allTextContents()) steps.add(text);
    waiting.add(await number(page, "Waiting"));
    return steps.size >= 4;
  });
  await picture(page, "batch");
  await isAccessible(page, "the page while a batch runs");
  await cloud("/market/interrupt", { kind: "notice", lead_s: 10 });
  await page.locator(".timeline .mark").first().waitFor();
  await page.locator(".timeline").getByText("interrupted by EC2").first().waitFor({ state: "attached" });
  await picture(page, "interruption");
  await until("the queue is empty", async () => {
    waiting.add(await number(page, "Waiting"));
    return (await number(page, "Waiting")) === 0;
  });
  const seen = [...waiting];
  assert.ok(seen.length >= 4 && Math.max(...seen) >= 6, `the queue falls on the page: ${seen}`);
});

test("a video plays, and its story is told", async () => {
  // This very card, for the next video may push it to the second place.
  const card = await page.locator(".card").first().elementHandle();
  await card.click();
  const video = page.locator("dialog video");
  await video.waitFor();
  await video.evaluate((element) => { element.muted = true; return element.play(); });
  await until("the video plays", () => video.evaluate((element) => element.currentTime > 0.4 && element.videoWidth === 1280));
  const story = page.getByRole("dialog");
  await story.getByText("Video ready").waitFor();
  await story.getByText("Submitted").waitFor();
  await isAccessible(page, "a task's story");
  await picture(page, "story");
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
  assert.ok(await card.evaluate((element) => element === document.activeElement), "the focus is back where it was");
});

test("a failed task is found by its filter, and retried", async () => {
  await submit("{{invalid@1}} this one cannot be rendered");
  for (const prompt of PROMPTS) await submit(prompt);
  await page.getByRole("button", { name: "Failed" }).click();
  const row = page.locator(".tasks tbody tr", { hasText: "this one cannot be rendered" });
  await row.waitFor();
  await row.getByRole("button", { name: /^Retry/ }).click();
  await page.getByText("The task waits again.").waitFor();
  await row.waitFor({ state: "detached" });
  await row.waitFor();
  await page.getByRole("button", { name: "All", exact: true }).click();
  const [task] = (await api("GET", "/tasks?state=failed&limit=1")).tasks;
  assert.equal(task.round, 2);
});

test("when intake dies, the page says so and comes back by itself", async () => {
  killIntake();
  await page.getByText("Connecting…").waitFor();
  const { id } = await until("intake is there again", () => submit("told after a restart").catch(() => null));
  await page.locator(".tasks .prompt", { hasText: "told after a restart" }).waitFor();
  await page.getByText("Live", { exact: true }).waitFor();
  await page.getByText("No answer from the server.", { exact: false }).waitFor({ state: "detached" });
  page.wrong = page.wrong.filter((text) => !text.includes("net::ERR_"));
  await page.goto(`${page.url().split("#")[0]}#task=${id}`);
  await page.getByRole("dialog").getByText("told after a restart").waitFor();
  await page.keyboard.press("Escape");
});

test("a hidden tab holds no connection, and continues with what it missed", async () => {
  const asked = [];
  let ended = 0;
  const isStream = (request) => new URL(request.url()).pathname === "/v1/events";
  page.on("request", (request) => { if (isStream(request)) asked.push(request); });
  page.on("requestfailed", (request) => { if (isStream(request)) ended += 1; });
  const hide = (away) => page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
    document.dispatchEvent(new Event("visibilitychange"));
  }, away);
  await hide(true);
  await until("the stream is closed", () => ended === 1);
  const { id } = await submit("told while the tab was hidden");
  await api("DELETE", `/tasks/${id}`);
  assert.equal(asked.length, 0);
  await hide(false);
  await page.locator(".tasks tbody tr", { hasText: "told while the tab was hidden" }).getByText("cancelled").waitFor();
  assert.equal(asked.length, 1, "one stream a tab");
  assert.match((await asked[0].allHeaders())["last-event-id"], /^[0-9]+$/);
});

test("it can be used with a keyboard alone", async () => {
  await page.reload();
  await page.locator(".tasks .prompt").first().waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  await page.locator(".tasks .prompt").first().focus();
  await page.keyboard.press("Enter");
  await page.getByRole("dialog").waitFor();
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
});

test("after the batch its receipt is in the list", async () => {
  await page.locator(".batches tbody button").first().waitFor();
  await page.locator(".batches tbody button").last().click();
  await page.locator(".batches .detail .timeline tbody tr").first().waitFor();
  await page.getByText(/Compute \$.*: \$/).waitFor();
  await picture(page, "receipt");
});

test("nothing went wrong and nothing came from elsewhere", async () => {
  assert.deepEqual(page.wrong, []);
  const origins = new Set(page.elsewhere);
  const allowed = new Set([new URL(process.env.SPOTREEL_API).origin, new URL(process.env.AWS_ENDPOINT_URL).origin]);
  assert.deepEqual([...origins].filter((origin) => !allowed.has(origin)), []);
});

for (const [width, height] of [[1440, 1000], [390, 844]]) {
  for (const scheme of ["light", "dark"]) {
    for (const [locale, word] of [["en-US", "Tasks"], ["zh-CN", "任务"]]) {
      test(`${width} px, ${scheme}, ${locale}`, async () => {
        const page = await open({ width, height, scheme, locale });
        await page.getByRole("heading", { name: word, exact: true }).waitFor();
        await page.locator(".poster img").first().waitFor();
        await until("posters are there", () => page.locator(".poster img").first().evaluate((image) => image.complete && image.naturalWidth > 0));
        assert.equal(await page.evaluate(() => document.documentElement.lang), locale === "zh-CN" ? "zh-CN" : "en");
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), "nothing is wider than the screen");
        await isAccessible(page, "the page");
        const name = `${width}-${scheme}-${locale}`;
        await picture(page, name, true);
        await page.locator(".card").first().click();
        await page.locator("dialog video").waitFor();
        await isAccessible(page, "a story");
        await picture(page, `${name}-story`);
        await page.keyboard.press("Escape");
        await page.locator(".bar .primary").click();
        await page.locator(".quote table").waitFor();
        await isAccessible(page, "the form");
        await picture(page, `${name}-form`);
        await page.keyboard.press("Escape");
        if (locale === "en-US") {
          await page.getByRole("button", { name: "中文" }).click();
          await page.getByRole("heading", { name: "任务", exact: true }).waitFor();
          await page.reload();
          await page.getByRole("heading", { name: "任务", exact: true }).waitFor();
        }
        assert.deepEqual(page.wrong, []);
        await page.context().close();
      });
    }
  }
}
