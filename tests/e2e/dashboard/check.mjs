// Walks every page of the dashboard in headless Chromium: node check.mjs --stoa FILE [--chromium FILE] [--shots FOLDER]
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import puppeteer from "puppeteer-core";

const options = { stoa: { type: "string" }, chromium: { type: "string", default: "/usr/bin/chromium" }, shots: { type: "string" } };
const { values: given } = parseArgs({ options });
if (!given.stoa) throw new Error("--stoa FILE names the binary");
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const folder = mkdtempSync(join(tmpdir(), "stoa-dashboard-"));
if (given.shots) mkdirSync(given.shots, { recursive: true });

/** A network that settles every two seconds. */
async function network() {
  const args = ["up", "--json", "--port", "0", "--batch-seconds", "2", "--data", join(folder, "data")];
  const child = spawn(given.stoa, args, { stdio: ["ignore", "pipe", "ignore"] });
  const lines = createInterface(child.stdout);
  const [line] = await Promise.race([once(lines, "line"), once(child, "exit").then(() => assert.fail("`stoa up` ended"))]);
  return { child, ready: JSON.parse(line) };
}

async function ask({ api, key, models }, model = models[0]) {
  const headers = { authorization: `Bearer ${key}`, "content-type": "application/json" };
  const body = JSON.stringify({ model, max_tokens: 8, messages: [{ role: "user", content: "What is 2 + 2?" }] });
  const answer = await fetch(`${api}/chat/completions`, { method: "POST", headers, body });
  await answer.arrayBuffer();
  return answer.headers.get("x-stoa-job");
}

const faults = [];
const told = (what) => {
  faults.push(what);
  console.error(what);
};

/** Contrast, labels, roles: what axe finds, in words. */
async function accessible(page, where) {
  const found = await page.evaluate(async (source) => {
    (0, eval)(source);
    const { violations } = await globalThis.axe.run(document, { resultTypes: ["violations"] });
    return violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.html.slice(0, 120)).join(" | ")}`);
  }, axe);
  for (const what of found) told(`${where}: ${what}`);
}

/** Nothing is wider than the screen, and the keyboard reaches every link in the order of the page. */
async function usable(page, where, width) {
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  if (wide > width) told(`${where}: ${wide} px wide on a screen of ${width}`);
}

async function keyboard(page, where) {
  const wanted = await page.$$eval("a[href], button, input, summary, [tabindex='0']", (all) => all.filter((one) => one.checkVisibility()).length);
  const seen = [];
  await page.evaluate(() => document.activeElement?.blur());
  for (let n = 0; n < wanted; n++) {
    await page.keyboard.press("Tab");
    const place = await page.evaluate(() => {
      const all = [...document.querySelectorAll("a[href], button, input, summary, [tabindex='0']")].filter((one) => one.checkVisibility());
      const outline = getComputedStyle(document.activeElement).outlineStyle;
      return [all.indexOf(document.activeElement), outline];
    });
    seen.push(place[0]);
    if (place[1] === "none") told(`${where}: the focus on element ${place[0]} cannot be seen`);
  }
  const inOrder = seen.every((place, n) => place === n);
  if (!inOrder) told(`${where}: the tab key goes ${seen.slice(0, 20)}`);
}

async function walk(page, base, paths) {
  for (const path of paths) {
    for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 360], ["dark", 360]]) {
      const where = `${path} ${scheme} ${width} px`;
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(base + path, { waitUntil: "load" });
      await page.waitForFunction(() => document.getElementById("connection")?.dataset.state === "live", { timeout: 10_000 });
      await usable(page, where, width);
      await accessible(page, where);
      if (scheme === "light" && width === 1280) await keyboard(page, where);
      if (given.shots) {
        const name = `${path.replace(/0x[0-9a-f]+/, "one").replaceAll("/", "_")}-${scheme}-${width}.png`;
        await page.screenshot({ path: join(given.shots, name), fullPage: true });
      }
    }
  }
}

/** From the moment a call is answered to the moment its row is on the page. */
async function liveness(page, base, ready) {
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(`${base}/dashboard/jobs`, { waitUntil: "load" });
  await page.waitForFunction(() => document.getElementById("connection")?.dataset.state === "live");
  const times = [];
  for (let n = 0; n < 5; n++) {
    const job = await ask(ready);
    const began = performance.now();
    await page.waitForSelector(`[data-key="${job}"] [data-state="delivered"], [data-key="${job}"] [data-state="committed"]`, { timeout: 10_000 });
    times.push(Math.round(performance.now() - began));
  }
  console.log(`a call's row was there ${times.join(", ")} ms after its answer`);
}

async function main(child, ready) {
  const browser = await puppeteer.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
  try {
    const page = await browser.newPage();
    page.on("console", (message) => ["error", "warn"].includes(message.type()) && told(`console: ${message.text()}`));
    page.on("pageerror", (error) => told(`script: ${error.message}`));
    page.on("requestfailed", (request) => {
      // A page that is left closes its stream.
      if (!request.url().includes("/dashboard/live")) told(`not loaded: ${request.url()}`);
    });
    const base = new URL(ready.api).origin;
    const jobs = [];
    for (let n = 0; n < 4; n++) jobs.push(await ask(ready));
    await ask(ready, "no-such-model");
    await page.goto(ready.dashboard, { waitUntil: "load" });
    await page.waitForFunction(() => location.pathname === "/", { timeout: 10_000 });
    await liveness(page, base, ready);
    const provider = await page.$eval("a[href^='/dashboard/providers/']", (link) => link.getAttribute("href"));
    const names = ["jobs", "providers", "audits", "money", "keys", "performance"].map((name) => `/dashboard/${name}`);
    const paths = ["/", ...names, `/dashboard/jobs/${jobs[0]}`, provider];
    await walk(page, base, paths);
    console.log(`${paths.length} pages in light and dark, wide and narrow: ${faults.length} faults`);
  } finally {
    await browser.close();
  }
}

const { child, ready } = await network();
try {
  await main(child, ready);
} finally {
  child.kill("SIGINT");
  await once(child, "exit");
  rmSync(folder, { recursive: true, force: true });
}
process.exit(faults.length > 0 ? 1 : 0);
