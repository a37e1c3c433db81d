// The same JSON-RPC requests to both chains, answers compared field by field.
import { Interface, Wallet, concat, AbiCoder, getCreateAddress, id as topicOf, zeroPadValue, encodeRlp, keccak256, toBeArray, toQuantity } from "ethers";
import { CONTRACTS, INVALID_INIT, POOL, ROUTER, VAULT_PARAMS } from "./lib/contracts.mjs";
import { BLOCK_FIELDS, PLACE_FIELDS, RECEIPT_FIELDS, differences } from "./lib/equal.mjs";
import { ask } from "./lib/chains.mjs";

const dollar = new Interface(CONTRACTS.TestDollar.abi);
const vault = new Interface(CONTRACTS.PaymentVault.abi);
const word = (address) => zeroPadValue(address, 32).toLowerCase();

/** Compares one question after the other. `told` gets a line for each difference. */
class Comparison {
  constructor(pair, told) {
    Object.assign(this, { pair, told, steps: 0 });
  }

  /** Sends to both; parameters may depend on the side. Returns both results. */
  async ask(step, method, params, { ignore = [], says, unequal } = {}) {
    const of = (side) => (typeof params === "function" ? params(side) : params);
    const [ours, theirs] = await Promise.all(["stoa", "anvil"].map((side) => ask(this.pair[side].rpc, method, of(side))));
    this.steps += 1;
    const fail = (what) => this.told(`${step}: ${method}: ${what}`);
    if (unequal) {
      const wrong = unequal(ours, theirs);
      if (wrong) fail(`is listed as different in README.md, but ${wrong}: ${JSON.stringify({ ours, theirs })}`);
    } else if (says) {
      // Clients tell errors apart by code and by words: the code must be equal, and the words must be in both texts.
      for (const [side, { error }] of [["stoa", ours], ["anvil", theirs]])
        if (!error || !says.test(error.message)) fail(`${side} should refuse with ${says}: ${JSON.stringify(side === "stoa" ? ours : theirs)}`);
      for (const field of ["code", "data"])
        if (ours.error?.[field] !== theirs.error?.[field]) fail(`error.${field}: ${ours.error?.[field]} against ${theirs.error?.[field]} (${ours.error?.message})`);
    } else {
      for (const { path, ours: a, theirs: b } of differences(ours.result, theirs.result, ignore))
        fail(`${path}: ${JSON.stringify(a)} against ${JSON.stringify(b)}`);
      if (ours.error || theirs.error) fail(`error: ${JSON.stringify(ours.error)} against ${JSON.stringify(theirs.error)}`);
    }
    return { stoa: ours.result, anvil: theirs.result };
  }
}

/** anvil answers before its block is there: waits until both have the receipt. */
async function sealed(c, hash) {
  const end = Date.now() + 10_000;
  for (const side of ["stoa", "anvil"])
    while (!(await ask(c.pair[side].rpc, "eth_getTransactionReceipt", [hash])).result) {
      if (Date.now() > end) throw new Error(`${side} did not seal ${hash} within 10 s`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
}

/** Sends, and compares hash, receipt and transaction. Returns the receipts. */
async function send(c, step, raw, options = {}) {
  const { stoa: hash } = await c.ask(step, "eth_sendRawTransaction", [raw], options);
  if (!hash) return {};
  await sealed(c, hash);
  const receipts = await c.ask(step, "eth_getTransactionReceipt", [hash], { ignore: RECEIPT_FIELDS });
  await c.ask(step, "eth_getTransactionByHash", [hash], { ignore: PLACE_FIELDS });
  return receipts;
}

export async function compare(pair, told) {
  const c = new Comparison(pair, told);
  const wallet = new Wallet(pair.keys[0]);
  const me = wallet.address;
  let nonce = 0;
  const fees = { maxFeePerGas: 0, maxPriorityFeePerGas: 0, type: 2, chainId: pair.chainId };
  const sign = (transaction) => wallet.signTransaction({ gasLimit: 5_000_000, ...fees, nonce: nonce++, ...transaction });
  const deploy = async (name, types = [], values = []) => {
    const { bytecode } = CONTRACTS[name];
    const address = getCreateAddress({ from: me, nonce });
    await send(c, `deploy ${name}`, await sign({ data: concat([bytecode, AbiCoder.defaultAbiCoder().encode(types, values)]) }));
    return address.toLowerCase();
  };
  await constants(c, me);
  const token = await deploy("TestDollar");
  const registry = await deploy("ProviderRegistry");
  const custody = await deploy("PaymentVault", vault.deploy.inputs, [token, registry, VAULT_PARAMS, me]);
  const brokenAt = getCreateAddress({ from: me, nonce });
  await send(c, "deploy a contract that stops", await sign({ data: INVALID_INIT }));
  const ctx = { c, me, wallet, sign, fees, token, custody, broken: brokenAt.toLowerCase(), nonce: () => nonce, skip: () => (nonce += 1) };
  await types(ctx);
  await money(ctx);
  await failures(ctx);
  await refusals(ctx);
  await blocks(ctx);
  await logs(ctx);
  await absent(ctx);
  await batches(ctx, pair, told);
  await ahead(ctx);
  return c.steps;
}

async function constants(c, me) {
  for (const method of ["eth_chainId", "net_version", "net_listening", "eth_syncing", "eth_accounts", "eth_blockNumber", "eth_gasPrice", "eth_blobBaseFee"])
    await c.ask("constants", method, []);
  for (const tag of ["latest", "pending", "earliest", "safe", "finalized", "0x0"]) {
    await c.ask(`balance at ${tag}`, "eth_getBalance", [me, tag]);
    await c.ask(`nonce at ${tag}`, "eth_getTransactionCount", [me, tag]);
    await c.ask(`code at ${tag}`, "eth_getCode", [me, tag]);
  }
  await c.ask("a tip", "eth_maxPriorityFeePerGas", [], { unequal: (a, b) => (a.result === "0x0" && b.result === "0x3b9aca00" ? null : "the tips changed") });
  await c.ask("balance without block", "eth_getBalance", [me], { unequal: (a, b) => (a.result && b.error?.code === -32602 ? null : "both say the same") });
  await c.ask("block 0", "eth_getBlockByNumber", ["0x0", false], { ignore: BLOCK_FIELDS });
}

/** Transfers of all types; their receipts and themselves are compared. */
async function types({ c, me, sign, token, custody, skip, nonce, wallet, fees }) {
  const to = POOL;
  await send(c, "legacy", await sign({ type: 0, gasPrice: 0, to, value: 7, maxFeePerGas: undefined, maxPriorityFeePerGas: undefined }));
  await send(c, "legacy with a price", await sign({ type: 0, gasPrice: 3, to, value: 7, maxFeePerGas: undefined, maxPriorityFeePerGas: undefined }));
  const accessList = [{ address: token, storageKeys: [`0x${"00".repeat(31)}02`, `0x${"00".repeat(31)}03`] }, { address: custody, storageKeys: [] }];
  await send(c, "access list", await sign({ type: 1, gasPrice: 0, accessList, to: token, data: dollar.encodeFunctionData("mint", [me, 5]), maxFeePerGas: undefined, maxPriorityFeePerGas: undefined }));
  await send(c, "dynamic fee", await sign({ to, value: 9 }));
  await send(c, "dynamic fee with a tip", await sign({ to, value: 9, maxFeePerGas: 100, maxPriorityFeePerGas: 2 }));
  await send(c, "dynamic fee with an access list", await sign({ accessList, to: token, data: dollar.encodeFunctionData("mint", [me, 5]) }));
  // The authority is the sender: its nonce is one ahead by then.
  const authorization = await wallet.authorize({ address: token, nonce: nonce() + 1, chainId: fees.chainId });
  await send(c, "set code", await sign({ type: 4, to, authorizationList: [authorization] }));
  skip();
  await c.ask("set code", "eth_getCode", [me, "latest"]);
  const removal = await wallet.authorize({ address: `0x${"00".repeat(20)}`, nonce: nonce() + 1, chainId: fees.chainId });
  await send(c, "unset code", await sign({ type: 4, to, authorizationList: [removal] }));
  skip();
  await c.ask("unset code", "eth_getCode", [me, "latest"]);
  await c.ask("after transfers", "eth_getBalance", [to, "latest"]);
  await c.ask("after transfers", "eth_getBalance", [me, "latest"]);
  await c.ask("after transfers", "eth_getTransactionCount", [me, "pending"]);
  const block = await c.ask("after transfers", "eth_blockNumber", []);
  await c.ask("an earlier state", "eth_getBalance", [to, toQuantity(BigInt(block.stoa) - 5n)]);
  await c.ask("an earlier state", "eth_getTransactionCount", [me, toQuantity(BigInt(block.stoa) - 5n)]);
}

/** Money into the vault, allotted and out again. */
async function money({ c, me, sign, token, custody }) {
  const call = (contract, name, values) => (contract === token ? dollar : vault).encodeFunctionData(name, values);
  const run = async (step, to, name, values) => {
    const data = call(to, name, values);
    await c.ask(step, "eth_estimateGas", [{ from: me, to, data }]);
    await c.ask(step, "eth_call", [{ from: me, to, input: data }, "latest"]);
    await send(c, step, await sign({ to, data }));
  };
  await run("mint", token, "mint", [me, 1_000_000]);
  await run("approve", token, "approve", [custody, 900_000]);
  await run("deposit", custody, "deposit", [600_000]);
  await run("allot", custody, "allot", [ROUTER, 200_000, Math.floor(Date.now() / 1000) + 86_400]);
  await run("withdraw", custody, "withdraw", [150_000]);
  for (const tag of ["latest", "pending", "safe"]) await c.ask(`free at ${tag}`, "eth_call", [{ to: custody, data: call(custody, "free", [me]) }, tag]);
  await c.ask("allotment", "eth_call", [{ to: custody, data: call(custody, "allotment", [me, ROUTER]) }]);
  await c.ask("storage", "eth_getStorageAt", [token, "0x2", "latest"]);
  await c.ask("storage, padded slot", "eth_getStorageAt", [token, `0x${"00".repeat(31)}02`, "latest"]);
  await c.ask("code", "eth_getCode", [custody, "latest"]);
  await c.ask("access list", "eth_createAccessList", [{ from: me, to: token, data: call(token, "transfer", [POOL, 1]) }, "latest"]);
  await c.ask("a call that creates", "eth_call", [{ from: me, data: INVALID_INIT }, "latest"]);
  await c.ask("a call with value", "eth_call", [{ from: me, to: POOL, value: "0x5" }, "latest"]);
  await c.ask("a plain transfer", "eth_estimateGas", [{ from: me, to: POOL, value: "0x1" }]);
  await c.ask("a call of nobody", "eth_call", [{ to: POOL, data: "0x1234" }, "latest"]);
}

/** Calls and transactions that fail in the contract. */
async function failures({ c, me, sign, token, custody, broken }) {
  const tooMuch = vault.encodeFunctionData("withdraw", [1_000_000_000]);
  const pull = dollar.encodeFunctionData("transferFrom", [POOL, me, 5]);
  for (const method of ["eth_call", "eth_estimateGas"]) {
    await c.ask("custom error of the vault", method, [{ from: me, to: custody, data: tooMuch }], { says: /execution reverted/ });
    await c.ask("custom error of the token", method, [{ from: me, to: token, data: pull }], { says: /execution reverted/ });
    await c.ask("no such function", method, [{ from: me, to: custody, data: "0x12345678" }], { says: /execution reverted/ });
  }
  // Init code that reverts with Error(string), as `require` writes it.
  const reason = `0x08c379a0${AbiCoder.defaultAbiCoder().encode(["string"], ["not today"]).slice(2)}`;
  const reverts = reverting(reason);
  for (const method of ["eth_call", "eth_estimateGas"]) await c.ask("a reason", method, [{ from: me, data: reverts }], { says: /execution reverted: not today/ });
  await c.ask("invalid opcode", "eth_call", [{ from: me, to: broken }, "latest"], { unequal: codes(-32000, -32603) });
  await c.ask("out of gas", "eth_call", [{ from: me, to: custody, data: vault.encodeFunctionData("free", [me]), gas: "0x5300" }, "latest"], { says: /gas/i });
  await send(c, "a reverted transaction", await sign({ to: custody, data: tooMuch }));
  await send(c, "a stopped transaction", await sign({ to: broken, gasLimit: 100_000 }));
  await send(c, "a reverted creation", await sign({ data: reverts, gasLimit: 200_000 }));
}

/** Init code that copies `data` behind itself to memory and reverts with it. */
function reverting(data) {
  const length = (data.length - 2) / 2;
  const size = length.toString(16).padStart(4, "0");
  return `0x61${size}600e60003961${size}6000fd${data.slice(2)}`;
}

/** Libraries refuse to sign this one: written out by hand. */
function tipAboveFee(wallet, chainId, nonce) {
  const number = (value) => toBeArray(value);
  const fields = [number(chainId), number(nonce), number(2), number(1), number(30_000), POOL, number(0), "0x", []];
  const { yParity, r, s } = wallet.signingKey.sign(keccak256(concat(["0x02", encodeRlp(fields)])));
  return concat(["0x02", encodeRlp([...fields, number(yParity), number(BigInt(r)), number(BigInt(s))])]);
}

/** What is refused before it runs. */
async function refusals({ c, me, wallet, sign, fees, nonce, skip }) {
  const base = { ...fees, to: POOL, gasLimit: 30_000 };
  const replay = await sign({ to: POOL, value: 1 });
  await send(c, "once", replay);
  const refuse = async (step, transaction, says, otherCode = false) => {
    const both = (ours, theirs) => (says.test(ours.error?.message) && says.test(theirs.error?.message) ? codes(-32003, -32000)(ours, theirs) : "not both say so");
    const raw = await wallet.signTransaction({ nonce: nonce(), ...base, ...transaction });
    await c.ask(step, "eth_sendRawTransaction", [raw], otherCode ? { unequal: both } : { says });
  };
  await c.ask("twice", "eth_sendRawTransaction", [replay], { says: /nonce too low|already known|already imported/i });
  await refuse("nonce too low", { nonce: 0 }, /nonce too low/i);
  await refuse("too little for the value", { value: 10n ** 30n }, /insufficient funds/i);
  await refuse("too little for the gas", { gasLimit: 1_000_000, maxFeePerGas: 10n ** 27n }, /insufficient funds/i);
  await refuse("less gas than any needs", { gasLimit: 20_000 }, /intrinsic gas too low/i, true);
  await refuse("more gas than one may use", { gasLimit: 2 ** 24 + 1 }, /gas limit|gas.*cap/i, true);
  await refuse("another chain", { chainId: 5 }, /chain/i);
  await c.ask("tip above fee", "eth_sendRawTransaction", [tipAboveFee(wallet, fees.chainId, nonce())], { says: /priority fee.*(higher|greater|above|less)/i });
  await c.ask("no transaction", "eth_sendRawTransaction", ["0x1234"], { says: /./ });
  await c.ask("no bytes", "eth_sendRawTransaction", ["0x"], { says: /./ });
  await c.ask("no data", "eth_sendRawTransaction", [], { says: /./ });
  await c.ask("no address", "eth_getBalance", ["0x12", "latest"], { says: /./ });
  await c.ask("a block that is not there", "eth_getBalance", [me, "0xffffff"], { unequal: codes(-32000, -32602) });
  const rich = { from: me, to: POOL, value: toQuantity(10n ** 30n) };
  await c.ask("too little for an estimate", "eth_estimateGas", [rich], { unequal: (a, b) => (/insufficient funds/.test(a.error?.message) && b.result ? null : "both say the same") });
  await c.ask("no such block", "eth_getBlockByNumber", ["0xffffff", false]);
  await c.ask("no such block", "eth_getBlockByHash", [`0x${"11".repeat(32)}`, false]);
  await c.ask("no such transaction", "eth_getTransactionByHash", [`0x${"11".repeat(32)}`]);
  await c.ask("no such transaction", "eth_getTransactionReceipt", [`0x${"11".repeat(32)}`]);
}

/** Blocks by number, hash and tag, with and without transactions. */
async function blocks({ c }) {
  const head = await c.ask("head", "eth_blockNumber", []);
  const some = ["latest", "safe", "finalized", "earliest", "0x3", "0xb"];
  for (const tag of some)
    for (const full of [false, true])
      await c.ask(`block ${tag}${full ? " in full" : ""}`, "eth_getBlockByNumber", [tag, full], { ignore: [...BLOCK_FIELDS, ...PLACE_FIELDS] });
  const newest = (ours, theirs) => (ours.result?.number === head.stoa && BigInt(theirs.result?.number) === BigInt(head.anvil) + 1n ? null : "it is another block");
  await c.ask("block pending", "eth_getBlockByNumber", ["pending", false], { unequal: newest });
  const known = { stoa: "", anvil: "" };
  for (const side of ["stoa", "anvil"]) known[side] = (await ask(c.pair[side].rpc, "eth_getBlockByNumber", ["0x5", false])).result.hash;
  const ignore = [...BLOCK_FIELDS, ...PLACE_FIELDS];
  await c.ask("block by hash", "eth_getBlockByHash", (side) => [known[side], false], { ignore });
  await c.ask("block by hash in full", "eth_getBlockByHash", (side) => [known[side], true], { ignore });
  await c.ask("count by hash", "eth_getBlockTransactionCountByHash", (side) => [known[side]]);
  await c.ask("count by number", "eth_getBlockTransactionCountByNumber", ["0x5"]);
  await c.ask("receipts of a block", "eth_getBlockReceipts", ["0x5"], { ignore: RECEIPT_FIELDS });
  await c.ask("balance at a hash", "eth_getBalance", (side) => [POOL, { blockHash: known[side] }]);
  await c.ask("balance at a named number", "eth_getBalance", [POOL, { blockNumber: "0x8" }]);
  for (const count of ["0x1", "0x5"]) {
    await c.ask("fee history", "eth_feeHistory", [count, "latest", [10, 50, 90]]);
    await c.ask("fee history without percentiles", "eth_feeHistory", [count, "latest"]);
  }
  await c.ask("fee history of the past", "eth_feeHistory", ["0x3", "0x6", []]);
  if (Number(head.stoa) < 12) throw new Error("the chains are too short for this comparison");
}

/** Logs by address, topics and range, by block hash, and through filters. */
async function logs({ c, me, sign, token, custody }) {
  const transfer = topicOf("Transfer(address,address,uint256)");
  const approval = topicOf("Approval(address,address,uint256)");
  const asked = [
    [{ fromBlock: "0x0" }, "all"],
    [{ fromBlock: "0x0", address: token }, "of one address"],
    [{ fromBlock: "0x0", address: [token, custody] }, "of two addresses"],
    [{ fromBlock: "0x0", topics: [transfer] }, "of one topic"],
    [{ fromBlock: "0x0", topics: [[transfer, approval]] }, "of either topic"],
    [{ fromBlock: "0x0", topics: [transfer, null, word(me)] }, "of a later topic"],
    [{ fromBlock: "0x0", topics: [null, word(me)] }, "with anything first"],
    [{ fromBlock: "0x0", topics: [transfer, [word(me), word(POOL)], []] }, "with an empty position"],
    [{ fromBlock: "0x0", address: token, topics: [approval, word(me), word(custody)] }, "of address and all topics"],
    [{ fromBlock: "0x0", toBlock: "0x8" }, "up to a block"],
    [{ fromBlock: "latest" }, "of the newest block"],
    [{}, "with an empty filter"],
    [{ fromBlock: "earliest", toBlock: "latest", address: POOL }, "of nobody"],
  ];
  for (const [filter, name] of asked) await c.ask(`logs ${name}`, "eth_getLogs", [filter], { ignore: PLACE_FIELDS });
  await c.ask("logs the wrong way round", "eth_getLogs", [{ fromBlock: "0x5", toBlock: "0x2" }], {
    unequal: (a, b) => (a.error?.code === -32602 && b.result?.length === 0 ? null : "both say the same"),
  });
  const ids = await c.ask("filter", "eth_newFilter", [{ address: token, topics: [transfer] }], { unequal: bothNumbers });
  const blockIds = await c.ask("block filter", "eth_newBlockFilter", [], { unequal: bothNumbers });
  await send(c, "an event for the filter", await sign({ to: token, data: dollar.encodeFunctionData("mint", [me, 77]) }));
  await c.ask("changes", "eth_getFilterChanges", (side) => [ids[side]], { ignore: PLACE_FIELDS });
  await c.ask("no more changes", "eth_getFilterChanges", (side) => [ids[side]]);
  await c.ask("all of the filter", "eth_getFilterLogs", (side) => [ids[side]], { ignore: PLACE_FIELDS });
  await c.ask("one new block", "eth_getFilterChanges", (side) => [blockIds[side]], {
    unequal: (a, b) => (a.result?.length === 1 && b.result?.length === 1 ? null : "not both report one block"),
  });
  await c.ask("uninstalled", "eth_uninstallFilter", (side) => [ids[side]]);
  await c.ask("uninstalled twice", "eth_uninstallFilter", (side) => [ids[side]]);
}

/** Both refuse, each with its own code. */
const codes = (mine, other) => (ours, theirs) => (ours.error?.code === mine && theirs.error?.code === other ? null : "the codes changed");

const bothNumbers = (a, b) => (/^0x[0-9a-f]+$/.test(a.result) && /^0x[0-9a-f]+$/.test(b.result) ? null : "not both gave an id");

/** Comes last: the two share a block or they do not, as they arrive. */
async function ahead({ c, me, sign }) {
  // One nonce ahead: it waits, is counted by nobody, and goes in with the one before it.
  const first = await sign({ to: POOL, value: 2 });
  const second = await sign({ to: POOL, value: 3 });
  const { stoa: waiting } = await c.ask("a nonce ahead", "eth_sendRawTransaction", [second]);
  await c.ask("a nonce ahead", "eth_getTransactionReceipt", [waiting]);
  await c.ask("a nonce ahead", "eth_getTransactionByHash", [waiting], { ignore: PLACE_FIELDS });
  await c.ask("a nonce ahead", "eth_getTransactionCount", [me, "pending"]);
  await c.ask("a nonce ahead", "eth_getTransactionCount", [me, "latest"]);
  await send(c, "the missing nonce", first);
  await sealed(c, waiting);
  await c.ask("both are in", "eth_getTransactionCount", [me, "latest"]);
}

/** What this chain does not offer says so by name; anvil offers some of it. */
async function absent({ c, me }) {
  const methods = {
    eth_getProof: [me, [], "latest"],
    debug_traceTransaction: [`0x${"11".repeat(32)}`],
    debug_traceCall: [{ to: me }, "latest"],
    trace_transaction: [`0x${"11".repeat(32)}`],
    trace_block: ["latest"],
    txpool_status: [],
    anvil_nodeInfo: [],
    evm_mine: [],
    eth_sendTransaction: [{ from: me, to: me }],
    eth_sign: [me, "0x00"],
    personal_listAccounts: [],
    admin_nodeInfo: [],
    eth_noSuchMethod: [],
  };
  for (const [method, params] of Object.entries(methods)) {
    const answer = await ask(c.pair.stoa.rpc, method, params);
    c.steps += 1;
    if (answer.error?.code !== -32601) c.told(`absent: ${method}: ${JSON.stringify(answer)}`);
  }
  const offered = (ours, theirs) => (ours.error?.code === -32601 && theirs.result ? null : "that changed");
  await c.ask("a proof", "eth_getProof", [me, [], "latest"], { unequal: offered });
  await c.ask("no such method", "eth_noSuchMethod", [], { says: /./ });
}

/** Batches: order, ids, errors inside, notifications. */
async function batches({ c }, pair, told) {
  const one = (id, method, params = []) => ({ jsonrpc: "2.0", id, method, params });
  const bodies = {
    "a batch": [one(1, "eth_chainId"), one("two", "eth_blockNumber"), one(3, "eth_noSuchMethod"), one(4, "eth_getBalance", [POOL, "latest"])],
    "a batch of one": [one(1, "eth_chainId")],
    "an empty batch": [],
    "no version": { id: 1, method: "eth_chainId", params: [] },
  };
  for (const [name, body] of Object.entries(bodies)) {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const post = async (side) => (await fetch(pair[side].rpc, { method: "POST", headers: { "content-type": "application/json" }, body: text })).json();
    const [ours, theirs] = await Promise.all([post("stoa"), post("anvil")]);
    c.steps += 1;
    for (const { path, ours: a, theirs: b } of differences(ours, theirs, ["message"])) told(`${name}: ${path}: ${JSON.stringify(a)} against ${JSON.stringify(b)}`);
  }
  const codes = ["stoa", "anvil"].map(async (side) => (await (await fetch(pair[side].rpc, { method: "POST", headers: { "content-type": "application/json" }, body: "{" })).json()).error.code);
  const [mine, other] = await Promise.all(codes);
  if (mine !== -32700 || other !== -32600) told(`no JSON: ${mine} and ${other}`);
}
