// Runs every script against the embedded chain and against anvil, and compares: node run.mjs --stoa FILE [--alloy FILE] [--only NAME]
import { execFile } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs, promisify } from "node:util";
import { startPair } from "./lib/chains.mjs";
import { BLOCK_FIELDS, PLACE_FIELDS, RECEIPT_FIELDS, differences } from "./lib/equal.mjs";
import { compare } from "./raw.mjs";

const DAY = 86_400;
const TOOL_MS = 60_000;
const { values: given } = parseArgs({ options: { stoa: { type: "string" }, alloy: { type: "string" }, only: { type: "string" } } });
if (!given.stoa) throw new Error("--stoa FILE names the binary");

const script = (name) => [process.execPath, [new URL(name, import.meta.url).pathname]];
const tools = { cast: script("cast.mjs"), ethers: script("ethers.mjs"), viem: script("viem.mjs") };
if (given.alloy) tools.alloy = [given.alloy, []];

/** What a script learned from one chain. */
async function learned([program, args], plan) {
  try {
    const { stdout } = await promisify(execFile)(program, [...args, JSON.stringify(plan)], { timeout: TOOL_MS, maxBuffer: 1 << 28 });
    return JSON.parse(stdout);
  } catch (error) {
    const said = `${error.stderr || error.message}`.split("\n").map((line) => line.slice(0, 300));
    throw new Error(`the script failed at ${plan.rpc}:\n${said.slice(-40).join("\n")}`);
  }
}

/** One script on both chains; gives the number of steps. */
async function tool(name, pair, told) {
  // Far enough for both clocks, equal on both sides.
  const expiry = (Math.floor(Date.now() / 1000 / DAY) + 3) * DAY;
  const plan = (side) => ({ ...pair[side], keys: pair.keys, chainId: pair.chainId, expiry, defaults: side === "stoa" });
  const ours = await learned(tools[name], plan("stoa"));
  const theirs = await learned(tools[name], plan("anvil"));
  for (const step of Object.keys(theirs)) if (!(step in ours)) told(`${step}: only anvil has it`);
  // Steps that anvil cannot run with a base fee of 0, and questions that it answers and this chain does not.
  const alone = Object.keys(ours).filter((step) => !(step in theirs));
  if (alone.some((step) => !/^(all by default|no )/.test(step))) told(`only this chain has: ${alone}`);
  const ignore = (step) => [...PLACE_FIELDS, ...RECEIPT_FIELDS, ...(/^block/.test(step) ? BLOCK_FIELDS : [])];
  for (const [step, value] of Object.entries(theirs))
    for (const { path, ours: a, theirs: b } of differences(ours[step], value, ignore(step), step))
      told(`${path}: ${JSON.stringify(a)} against ${JSON.stringify(b)}`);
  return Object.keys(ours).length;
}

/** One script or the list of requests on a fresh pair of chains; gives what differs. */
async function attempt(name) {
  const began = performance.now();
  const folder = mkdtempSync(join(tmpdir(), "stoa-wallets-"));
  const found = [];
  const told = (what) => {
    found.push(what);
    console.error(`${name}: ${what}`.slice(0, 1_000));
  };
  let pair;
  try {
    pair = await startPair(given.stoa, folder);
    const steps = await (name === "raw requests" ? compare(pair, told) : tool(name, pair, told));
    console.log(`${name}: ${steps} answers compared in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  } catch (error) {
    told(error.stack ?? error);
  } finally {
    await pair?.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  return found;
}

let failures = 0;
for (const name of ["raw requests", ...Object.keys(tools)].filter((name) => !given.only || name.includes(given.only))) {
  // anvil answers before it seals, so that on a busy machine two of its blocks may be one. What differs is there again on fresh chains.
  if ((await attempt(name)).length === 0) continue;
  console.error(`${name}: once more`);
  failures += (await attempt(name)).length;
}
if (failures > 0) {
  console.error(`${failures} differences, twice`);
  process.exit(1);
}
