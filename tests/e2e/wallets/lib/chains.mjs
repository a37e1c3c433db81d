// Starts a fresh embedded chain and an anvil that is configured alike: chain id, genesis balances and time, fork, gas limits, no fee.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Wallet } from "ethers";

const START_MS = 60_000;

/** The file of a Foundry program, as its npm package for this platform brings it. */
export function foundry(name) {
  const file = new URL(`../node_modules/@foundry-rs/${name}-linux-amd64/bin/${name}`, import.meta.url).pathname;
  if (!existsSync(file)) throw new Error(`${file} is missing: run \`npm ci\` in tests/e2e/wallets; only the package for Linux on x86-64 is pinned here`);
  return file;
}

/** Starts a program and waits for the line that `pattern` matches. */
async function start(program, args, pattern) {
  const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
  const heard = [];
  const found = new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`${program} was not ready in time:\n${heard.join("\n")}`)), START_MS);
    const look = (line) => {
      if (heard.length < 200) heard.push(line);
      const match = line.match(pattern);
      if (match) {
        clearTimeout(timer);
        resolve(match);
      }
    };
    createInterface({ input: child.stdout }).on("line", look);
    createInterface({ input: child.stderr }).on("line", look);
    child.once("error", reject);
    child.once("exit", (code) => reject(new Error(`${program} ended with ${code}:\n${heard.join("\n")}`)));
  });
  const stop = async () => {
    if (child.exitCode !== null) return;
    child.kill("SIGINT");
    const late = setTimeout(() => child.kill("SIGKILL"), 5_000);
    await once(child, "exit");
    clearTimeout(late);
  };
  try {
    return { match: await found, stop };
  } catch (error) {
    child.kill("SIGKILL");
    throw error;
  }
}

/** One request; the answer with its `error` or `result`. */
export async function ask(rpc, method, params = []) {
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });
  const response = await fetch(rpc, { method: "POST", headers: { "content-type": "application/json" }, body });
  return response.json();
}

async function result(rpc, method, params) {
  const answer = await ask(rpc, method, params);
  if (answer.error) throw new Error(`${method}: ${answer.error.message}`);
  return answer.result;
}

/** Both chains over one folder; the accounts of `keys` have the same money in both. */
export async function startPair(stoa, folder) {
  const data = join(folder, "stoa");
  const ours = await start(stoa, ["chain", "--data", data, "--port", "0", "--bare"], /chain (\d+) at (http:\S+), block 0/);
  const [, chainId, rpc] = ours.match;
  const rpcOurs = rpc.replace(/,$/, "");
  const keys = ["deployer", "developer", "router"].map((name) => `0x${readFileSync(join(data, `keys/${name}.key`), "utf8").trim()}`);
  const accounts = keys.map((key) => new Wallet(key).address);
  try {
    const genesis = await result(rpcOurs, "eth_getBlockByNumber", ["0x0", false]);
    const alloc = {};
    for (const account of accounts) alloc[account] = { balance: await result(rpcOurs, "eth_getBalance", [account, "0x0"]) };
    const file = join(folder, "genesis.json");
    const config = { chainId: Number(chainId) };
    const block = { timestamp: genesis.timestamp, gasLimit: genesis.gasLimit, baseFeePerGas: "0x0", difficulty: "0x0" };
    writeFileSync(file, JSON.stringify({ config, ...block, alloc }));
    const options = [
      ...["--port", "0", "--accounts", "0", "--init", file, "--chain-id", chainId, "--hardfork", "osaka"],
      ...["--gas-limit", `${Number(genesis.gasLimit)}`, "--block-base-fee-per-gas", "0", "--gas-price", "0"],
      ...["--disable-min-priority-fee", "--enable-tx-gas-limit", "--disable-default-create2-deployer", "--slots-in-an-epoch", "0"],
    ];
    const theirs = await start(foundry("anvil"), options, /Listening on (\S+)/);
    const chain = (rpc) => ({ rpc, ws: rpc.replace("http", "ws") });
    return {
      chainId: Number(chainId),
      keys,
      stoa: chain(rpcOurs),
      anvil: chain(`http://${theirs.match[1]}`),
      stop: async () => void (await Promise.all([ours.stop(), theirs.stop()])),
    };
  } catch (error) {
    await ours.stop();
    throw error;
  }
}
