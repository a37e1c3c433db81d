// A developer's day with cast: node cast.mjs '{"rpc", "ws", "keys": [payer, other], "chainId", "expiry"}'
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { foundry } from "./lib/chains.mjs";
import { CONTRACTS, POOL, ROUTER, VAULT_PARAMS } from "./lib/contracts.mjs";
import { Record } from "./lib/record.mjs";

const plan = JSON.parse(process.argv[2]);
const record = new Record();
const program = foundry("cast");
const options = { encoding: "utf8", timeout: 20_000, env: { ...process.env, FOUNDRY_DISABLE_NIGHTLY_WARNING: "1", NO_COLOR: "1" } };

/** Runs cast without a chain; the text that it prints. */
const offline = async (...args) => (await promisify(execFile)(program, args.map(String), options)).stdout.trim();
/** Runs cast against the chain. */
const cast = (command, ...args) => offline(command, "--rpc-url", plan.rpc, ...args);
const json = async (command, ...args) => JSON.parse(await cast(command, "--json", ...args));
const key = ["--private-key", plan.keys[0]];
const free = ["--gas-price", "0", "--priority-gas-price", "0"];
const send = (...args) => json("send", ...key, ...free, ...args);
const receiptOf = async (step, sent) => record.keep(step, await sent);
const me = await offline("wallet", "address", plan.keys[0]);

/** The words of an error that the chain answered, as cast shows them. */
const told = (words) => (error) => {
  const answered = /error code -?\d+/.test(error.stderr) && error.stderr.match(words);
  return answered ? answered[0].toLowerCase() : null;
};

const deploy = async (name, ...constructor) => {
  const receipt = await receiptOf(`deploy ${name}`, send("--create", CONTRACTS[name].bytecode, ...constructor));
  return receipt.contractAddress;
};

async function basics() {
  assert.equal(record.keep("chain id", await cast("chain-id")), `${plan.chainId}`);
  record.keep("height", await cast("block-number"));
  record.keep("gas price", await cast("gas-price"));
  record.keep("base fee", await cast("base-fee"));
  record.keep("fee history", JSON.parse(await cast("rpc", "eth_feeHistory", "0x2", "latest", "[50]")));
  record.keep("balance", await cast("balance", me));
  record.keep("balance of nobody", await cast("balance", ROUTER));
  record.keep("nonce", await cast("nonce", me));
  record.keep("nonce pending", await cast("nonce", me, "--block", "pending"));
  record.keep("over the socket", await offline("block-number", "--rpc-url", plan.ws));
}

async function transfers() {
  await receiptOf("legacy", json("send", ...key, "--legacy", "--gas-price", "0", POOL, "--value", "1"));
  const list = JSON.stringify([{ address: ROUTER, storageKeys: [`0x${"00".repeat(31)}01`] }]);
  await receiptOf("access list", send(POOL, "--value", "2", "--access-list", list));
  await receiptOf("dynamic fee", send(POOL, "--value", "3"));
  record.keep("received", await cast("balance", POOL));
  record.keep("received before", await cast("balance", POOL, "--block", Number(await cast("block-number")) - 2));
}

async function refusals() {
  const raw = await cast("mktx", ...key, ...free, POOL, "--value", "5");
  await receiptOf("raw", json("publish", raw));
  await record.refused("raw again", () => cast("publish", raw), told(/nonce too low/i));
  await record.refused("nonce too low", () => send(POOL, "--nonce", "0", "--gas-limit", "21000"), told(/nonce too low/i));
  await record.refused("too little money", () => send(POOL, "--value", `1${"0".repeat(30)}`, "--gas-limit", "21000"), told(/insufficient funds/i));
  await record.refused("too little gas", () => send(POOL, "--gas-limit", "20000"), told(/intrinsic gas too low/i));
}

/** v, r and s of a signature over the permit, as cast signs typed data. */
async function permit(name, token, spender, value) {
  const field = (name, type) => ({ name, type });
  const nonce = await cast("call", token, "nonces(address)(uint256)", me);
  const data = {
    types: {
      EIP712Domain: [field("name", "string"), field("version", "string"), field("chainId", "uint256"), field("verifyingContract", "address")],
      Permit: [field("owner", "address"), field("spender", "address"), field("value", "uint256"), field("nonce", "uint256"), field("deadline", "uint256")],
    },
    primaryType: "Permit",
    domain: { name, version: "1", chainId: plan.chainId, verifyingContract: token },
    message: { owner: me, spender, value, nonce, deadline: plan.expiry },
  };
  const signature = await offline("wallet", "sign", ...key, "--data", JSON.stringify(data));
  return [Number(`0x${signature.slice(130)}`), signature.slice(0, 66), `0x${signature.slice(66, 130)}`];
}

async function tokens(dollar, stoa) {
  await receiptOf("mint", send(dollar, "mint(address,uint256)", me, 1_000_000));
  record.keep("token balance", await cast("call", dollar, "balanceOf(address)(uint256)", me));
  record.keep("stake balance", await cast("call", stoa, "balanceOf(address)(uint256)", me));
  record.keep("estimate", await cast("estimate", "--from", me, dollar, "transfer(address,uint256)", POOL, 5));
  record.keep("access list made", await json("access-list", "--from", me, dollar, "transfer(address,uint256)", POOL, 5));
  record.keep("storage", await cast("storage", dollar, 2));
  record.keep("code", (await cast("code", dollar)).length);
  for (const [name, token, title] of [["TestDollar", dollar, "Test Dollar (devnet only)"], ["StoaToken", stoa, "Stoa"]]) {
    const call = ["permit(address,address,uint256,uint256,uint8,bytes32,bytes32)", me, POOL, 123, plan.expiry, ...(await permit(title, token, POOL, 123))];
    await receiptOf(`permit ${name}`, send(token, ...call));
    assert.equal(record.keep(`allowance ${name}`, await cast("call", token, "allowance(address,address)(uint256)", me, POOL)), "123");
    await record.refused(`permit ${name} twice`, () => cast("call", "--from", me, token, ...call), reverted);
  }
}

/** The revert data, which cast shows as it came. */
const reverted = (error) => (/error code 3: execution reverted/.test(error.stderr) ? (error.stderr.match(/data: "(0x[0-9a-f]+)"/)?.[1] ?? null) : null);

async function custody(dollar, vault) {
  await receiptOf("approve", send(dollar, "approve(address,uint256)", vault, 600_000));
  await receiptOf("deposit", send(vault, "deposit(uint128)", 600_000));
  const signed = await permit("Test Dollar (devnet only)", dollar, vault, 100_000);
  await receiptOf("deposit with permit", send(vault, "depositWithPermit(uint128,uint256,uint8,bytes32,bytes32)", 100_000, plan.expiry, ...signed));
  await receiptOf("allot", send(vault, "allot(address,uint128,uint64)", ROUTER, 200_000, plan.expiry));
  await receiptOf("withdraw", send(vault, "withdraw(uint128)", 150_000));
  assert.match(record.keep("free", await cast("call", vault, "free(address)(uint128)", me)), /^350000\b/);
  record.keep("allotment", await cast("call", vault, "allotment(address,address)", me, ROUTER));
  const data = await record.refused("withdraw too much", () => cast("call", "--from", me, vault, "withdraw(uint128)", 10 ** 9), reverted);
  const decoded = await offline("decode-error", "--sig", "InsufficientFree(address,uint128,uint128)", data);
  assert.match(record.keep("withdraw too much, decoded", decoded), /350000.*\n.*1000000000/);
  await record.refused("withdraw too much, sent", () => send(vault, "withdraw(uint128)", 10 ** 9), reverted);
  await record.refused("allot twice", () => cast("call", "--from", me, vault, "allot(address,uint128,uint64)", ROUTER, 1, plan.expiry), reverted);
  await receiptOf("a reverted transaction", send(vault, "withdraw(uint128)", 10 ** 9, "--gas-limit", 200_000));
}

async function history(dollar, vault) {
  const all = ["logs", "--from-block", "0"];
  record.keep("logs of the vault", await json(...all, "--address", vault));
  record.keep("transfers to the vault", await json(...all, "--address", dollar, "Transfer(address indexed,address indexed,uint256)", me, vault));
  record.keep("logs up to a block", await json(...all, "--to-block", "8"));
  const block = await json("block", 3);
  record.keep("block", await json("block", block.hash, "--full"));
  for (const tag of ["latest", "safe", "finalized", "earliest"]) record.keep(`block ${tag}`, await cast("block", tag, "--field", "number"));
  record.keep("transaction", await json("tx", block.transactions[0]));
  record.keep("receipt", await json("receipt", block.transactions[0]));
}

/** Comes last: how many blocks these take hangs on when they arrive. */
async function atOnce() {
  const nonce = Number(await cast("nonce", me));
  const ahead = await cast("send", ...key, ...free, "--async", POOL, "--value", "6", "--nonce", nonce + 1, "--gas-limit", "21000");
  await send(POOL, "--value", "7", "--nonce", nonce, "--gas-limit", "21000");
  const { status, gasUsed } = await json("receipt", ahead);
  record.keep("a nonce ahead is in", { status, gasUsed });
  const absent = (method, ...params) => () => cast("rpc", method, ...params);
  if (!plan.defaults) return;
  const missing = told(/does not exist/);
  await record.refused("no proofs", absent("eth_getProof", me, "[]", "latest"), missing);
  await record.refused("no traces", absent("debug_traceTransaction", ahead), missing);
  await record.refused("no trace module", absent("trace_transaction", ahead), missing);
}

async function byDefault() {
  // Everything by default, from another account: fees are asked for, so only what does not hang on them is kept.
  const { status, gasUsed, type } = await json("send", "--private-key", plan.keys[1], POOL, "--value", "4");
  record.keep("all by default", { status, gasUsed, type });
}

await basics();
const dollar = await deploy("TestDollar");
const stoa = await deploy("StoaToken", "constructor(address)", me);
const registry = await deploy("ProviderRegistry");
const shape = "(uint64,uint64,uint64,uint128,uint16,uint16,uint16,uint16,address,address,address)";
const params = `(${Object.values(VAULT_PARAMS).join(",")})`;
const vault = await deploy("PaymentVault", `constructor(address,address,${shape},address)`, dollar, registry, params, me);
await transfers();
await refusals();
await tokens(dollar, stoa);
await custody(dollar, vault);
await history(dollar, vault);
await atOnce();
await byDefault();
record.print();
