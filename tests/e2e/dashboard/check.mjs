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
import { privateKeyToAccount } from "viem/accounts";
import { createSiweMessage } from "viem/siwe";

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
  const wanted = await page.$$eval("a[href], button, input, textarea, summary, [tabindex='0']", (all) => all.filter((one) => one.checkVisibility()).length);
  const seen = [];
  await page.evaluate(() => document.activeElement?.blur());
  for (let n = 0; n < wanted; n++) {
    await page.keyboard.press("Tab");
    const place = await page.evaluate(() => {
      const all = [...document.querySelectorAll("a[href], button, input, textarea, summary, [tabindex='0']")].filter((one) => one.checkVisibility());
      const outline = getComputedStyle(document.activeElement).outlineStyle;
      return [all.indexOf(document.activeElement), outline];
    });
    seen.push(place[0]);
    if (place[1] === "none") told(`${where}: the focus on element ${place[0]} cannot be seen`);
  }
  const inOrder = seen.every((place, n) => place === n);
  if (!inOrder) told(`${where}: the tab key goes ${seen.slice(0, 20)}`);
}

async function walk(page, base, paths, live = true) {
  for (const path of paths) {
    for (const [scheme, width] of [["light", 1280], ["dark", 1280], ["light", 360], ["dark", 360]]) {
      const where = `${path} ${scheme} ${width} px`;
      await page.setViewport({ width, height: 900 });
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      await page.goto(base + path, { waitUntil: "load" });
      if (live) await page.waitForFunction(() => document.getElementById("connection")?.dataset.state === "live", { timeout: 10_000 });
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

/** A page whose console and requests are watched, in a browser of its own: no cookie of another is in it. */
async function watched(browser) {
  const page = await (await browser.createBrowserContext()).newPage();
  page.on("console", (message) => ["error", "warn"].includes(message.type()) && told(`console: ${message.text()}`));
  page.on("pageerror", (error) => told(`script: ${error.message}`));
  page.on("requestfailed", (request) => {
    // A page that is left closes its stream.
    if (!request.url().includes("/dashboard/live")) told(`not loaded: ${request.url()}`);
  });
  return page;
}

/** The account of a key in the network's folder. */
function accountOf(name) {
  const digits = readFileSync(join(folder, "data", "keys", `${name}.key`), "utf8").trim();
  return privateKeyToAccount(`0x${digits}`);
}

/** An EIP-1193 provider as wallets put one into a page. A stand-in: it shows one account and signs with its key, asking nobody. */
async function injectStandInWallet(page, account) {
  await page.exposeFunction("standInSign", (raw) => account.signMessage({ message: { raw } }));
  await page.evaluateOnNewDocument((address) => {
    const request = async ({ method, params }) => {
      if (method === "eth_requestAccounts") return [address];
      if (method === "personal_sign" && params[1] === address) return globalThis.standInSign(params[0]);
      throw new Error(`the stand-in for a wallet knows no ${method}`);
    };
    globalThis.ethereum = { request };
    // As wallets show them: without capitals.
  }, account.address.toLowerCase());
}

const status = async (page, url) => {
  const cookie = (await page.cookies()).map(({ name, value }) => `${name}=${value}`).join("; ");
  return (await fetch(url, { headers: { cookie } })).status;
};

async function arrived(page, account) {
  await page.waitForFunction(() => location.pathname === "/", { timeout: 10_000 });
  await page.waitForSelector("#leave");
  const footer = await page.$eval("footer", (one) => one.textContent);
  assert.ok(footer.includes(account.address.toLowerCase()), footer);
}

/** The developer signs in with the wallet in its browser, sees its own calls, and signs out. */
async function signInByWallet(browser, base, job) {
  const [page, account] = [await watched(browser), accountOf("developer")];
  await injectStandInWallet(page, account);
  await walk(page, base, ["/sign-in"], false);
  await page.click("#wallet");
  await arrived(page, account);
  assert.equal(await status(page, `${base}/dashboard/performance`), 404);
  assert.equal(await page.$("nav a[href='/dashboard/performance']"), null);
  await walk(page, base, ["/", "/dashboard/money", "/dashboard/keys", `/dashboard/jobs/${job}`]);
  await page.goto(`${base}/`, { waitUntil: "load" });
  await page.click("#leave");
  await page.waitForFunction(() => location.pathname === "/sign-in");
  assert.equal(await status(page, `${base}/`), 401);
}

/** A provider signs the text elsewhere and pastes the signature; it sees what it earned, and no call of the developer. */
async function signInByPasting(browser, base, job) {
  const [page, account] = [await watched(browser), accountOf("provider-0")];
  await page.goto(`${base}/sign-in`, { waitUntil: "load" });
  await page.click("#wallet");
  await page.waitForFunction(() => document.getElementById("told").textContent.startsWith("No wallet"));
  await page.type("#account", account.address);
  await page.click("#ask button");
  await page.waitForSelector("#message", { visible: true });
  const message = await page.$eval("#message", (one) => one.value);
  if (given.shots) await page.screenshot({ path: join(given.shots, "sign-in-paste.png"), fullPage: true });
  await accessible(page, "/sign-in with its text");
  await page.type("#signature", await account.signMessage({ message }));
  await page.click("#answer > button");
  await arrived(page, account);
  assert.equal(await status(page, `${base}/dashboard/jobs/${job}`), 404);
  const own = `/dashboard/providers/${account.address.toLowerCase()}`;
  await page.goto(base + own, { waitUntil: "load" });
  assert.ok(await page.$("#earnings"), "a provider sees what it earned");
}

/** A message that viem wrote opens a session, once. */
async function signInByViem(base) {
  const account = accountOf("developer");
  const { nonce, chain_id: chainId } = await (await fetch(`${base}/sign-in/nonce`)).json();
  const { host: domain } = new URL(base);
  const message = createSiweMessage({ address: account.address, chainId, domain, nonce, uri: `${base}/sign-in`, version: "1" });
  const body = JSON.stringify({ message, signature: await account.signMessage({ message }) });
  const enter = () => fetch(`${base}/sign-in`, { method: "POST", headers: { "content-type": "application/json" }, body });
  const first = await enter();
  assert.equal(first.status, 200, await first.text());
  assert.equal((await enter()).status, 401);
}

async function main(child, ready) {
  const browser = await puppeteer.launch({ executablePath: given.chromium, args: ["--no-sandbox", "--disable-gpu"] });
  try {
    const page = await watched(browser);
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
    await signInByWallet(browser, base, jobs[0]);
    await signInByPasting(browser, base, jobs[0]);
    await signInByViem(base);
    console.log("signed in with a stand-in for a wallet, by a pasted signature, and by viem's own message");
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
