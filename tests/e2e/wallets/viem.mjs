// A developer's day with viem 2: node viem.mjs '{"rpc", "ws", "keys": [payer, other], "chainId", "expiry"}'
import assert from "node:assert/strict";
import { BaseError, createPublicClient, createWalletClient, defineChain, getContract, hexToSignature, http, parseEventLogs, webSocket } from "viem";
import { privateKeyToAccount } from "viem/accounts";
import { CONTRACTS, POOL, ROUTER, VAULT_PARAMS } from "./lib/contracts.mjs";
import { Record, within } from "./lib/record.mjs";

const plan = JSON.parse(process.argv[2]);
const record = new Record();
const nativeCurrency = { name: "native", symbol: "N", decimals: 18 };
const chain = defineChain({ id: plan.chainId, name: "devnet", nativeCurrency, rpcUrls: { default: { http: [plan.rpc] } } });
const transport = http(plan.rpc, { batch: true, retryCount: 0 });
const client = createPublicClient({ chain, transport, pollingInterval: 50, cacheTime: 0 });
const account = privateKeyToAccount(plan.keys[0]);
const wallet = createWalletClient({ account, chain, transport });
const me = account.address;
const fees = { maxFeePerGas: 0n, maxPriorityFeePerGas: 0n };

const receiptOf = async (step, hash) => {
  const receipt = await client.waitForTransactionReceipt({ hash: await hash });
  return record.keep(step, receipt);
};

const deploy = async (name, args) => {
  const { abi, bytecode } = CONTRACTS[name];
  const { contractAddress: address } = await receiptOf(`deploy ${name}`, wallet.deployContract({ abi, bytecode, args, ...fees }));
  return getContract({ address, abi, client: { public: client, wallet } });
};

/** The name of the first cause with which viem itself explains the error. */
const named = (...names) => (error) => {
  const cause = error instanceof BaseError ? error.walk((inner) => names.includes(inner.name)) : null;
  return cause?.name ?? null;
};

async function basics() {
  assert.equal(record.keep("chain id", await client.getChainId()), plan.chainId);
  record.keep("height", await client.getBlockNumber());
  record.keep("gas price", await client.getGasPrice());
  record.keep("fee history", await client.getFeeHistory({ blockCount: 2, rewardPercentiles: [50] }));
  record.keep("fee history without percentiles", await client.getFeeHistory({ blockCount: 2, rewardPercentiles: [] }));
  // Asked in one tick: viem sends one batch.
  record.keep("balances in a batch", await Promise.all([me, POOL, ROUTER].map((address) => client.getBalance({ address }))));
  const counts = ["latest", "pending"].map((blockTag) => client.getTransactionCount({ address: me, blockTag }));
  record.keep("nonce", await Promise.all(counts));
}

async function transfers() {
  await receiptOf("legacy", wallet.sendTransaction({ type: "legacy", to: POOL, value: 1n, gasPrice: 0n }));
  const accessList = [{ address: ROUTER, storageKeys: [`0x${"00".repeat(31)}01`] }];
  await receiptOf("access list", wallet.sendTransaction({ type: "eip2930", to: POOL, value: 2n, gasPrice: 0n, accessList }));
  await receiptOf("dynamic fee", wallet.sendTransaction({ to: POOL, value: 3n, ...fees }));
  record.keep("received", await client.getBalance({ address: POOL }));
  const blockNumber = (await client.getBlockNumber()) - 2n;
  record.keep("received before", await client.getBalance({ address: POOL, blockNumber }));
}

async function refusals() {
  const send = (request) => wallet.sendTransaction({ to: POOL, gas: 21_000n, ...fees, ...request });
  const request = { type: "eip1559", chainId: plan.chainId, to: POOL, value: 5n, gas: 21_000n, nonce: await client.getTransactionCount({ address: me }), ...fees };
  const serializedTransaction = await wallet.signTransaction(request);
  await receiptOf("raw", client.sendRawTransaction({ serializedTransaction }));
  await record.refused("raw again", () => client.sendRawTransaction({ serializedTransaction }), named("NonceTooLowError", "TransactionRejectedRpcError"));
  await record.refused("nonce too low", () => send({ nonce: 0 }), named("NonceTooLowError"));
  await record.refused("too little money", () => send({ value: 10n ** 30n }), named("InsufficientFundsError"));
  await record.refused("too little gas", () => send({ gas: 20_000n }), named("IntrinsicGasTooLowError"));
}

const permitTypes = {
  Permit: [
    { name: "owner", type: "address" },
    { name: "spender", type: "address" },
    { name: "value", type: "uint256" },
    { name: "nonce", type: "uint256" },
    { name: "deadline", type: "uint256" },
  ],
};

async function permit(token, spender, value) {
  const domain = { name: await token.read.name(), version: "1", chainId: plan.chainId, verifyingContract: token.address };
  const message = { owner: me, spender, value, nonce: await token.read.nonces([me]), deadline: BigInt(plan.expiry) };
  const signature = await wallet.signTypedData({ domain, types: permitTypes, primaryType: "Permit", message });
  assert(await client.verifyTypedData({ address: me, domain, types: permitTypes, primaryType: "Permit", message, signature }));
  const { v, r, s } = hexToSignature(signature);
  return [Number(v), r, s];
}

async function tokens(dollar, stoa) {
  await receiptOf("mint", dollar.write.mint([me, 1_000_000n], fees));
  record.keep("balance", await dollar.read.balanceOf([me]));
  record.keep("stake balance", await stoa.read.balanceOf([me]));
  record.keep("estimate", await dollar.estimateGas.transfer([POOL, 5n], { account, ...fees }));
  for (const [name, token] of [["TestDollar", dollar], ["StoaToken", stoa]]) {
    const signed = [me, POOL, 123n, BigInt(plan.expiry), ...(await permit(token, POOL, 123n))];
    await receiptOf(`permit ${name}`, token.write.permit(signed, fees));
    assert.equal(record.keep(`allowance ${name}`, await token.read.allowance([me, POOL])), 123n);
    await record.refused(`permit ${name} twice`, () => token.simulate.permit(signed, { account }), reason);
  }
}

/** Name and arguments of a custom error, as viem decodes them. */
function reason(error) {
  const reverted = error instanceof BaseError && error.walk((inner) => inner.name === "ContractFunctionRevertedError");
  return reverted?.data ? [reverted.data.errorName, ...(reverted.data.args ?? [])] : null;
}

async function custody(dollar, vault) {
  const expiry = BigInt(plan.expiry);
  await receiptOf("approve", dollar.write.approve([vault.address, 600_000n], fees));
  await receiptOf("deposit", vault.write.deposit([600_000n], fees));
  const signed = await permit(dollar, vault.address, 100_000n);
  await receiptOf("deposit with permit", vault.write.depositWithPermit([100_000n, expiry, ...signed], fees));
  await receiptOf("allot", vault.write.allot([ROUTER, 200_000n, expiry], fees));
  await receiptOf("withdraw", vault.write.withdraw([150_000n], fees));
  assert.equal(record.keep("free", await vault.read.free([me])), 350_000n);
  record.keep("allotment", await vault.read.allotment([me, ROUTER]));
  const short = await record.refused("withdraw too much", () => vault.simulate.withdraw([10n ** 9n], { account }), reason);
  assert.deepEqual(short, ["InsufficientFree", me, 350_000n, 10n ** 9n]);
  await record.refused("withdraw too much, sent", () => vault.write.withdraw([10n ** 9n], fees), reason);
  await record.refused("allot twice", () => vault.simulate.allot([ROUTER, 1n, expiry], { account }), reason);
  await receiptOf("a reverted transaction", vault.write.withdraw([10n ** 9n], { ...fees, gas: 200_000n }));
}

const plain = ({ blockHash: _, blockTimestamp: __, ...log }) => log;

async function history(dollar, vault) {
  const range = { fromBlock: 0n };
  record.keep("deposits", (await vault.getEvents.Deposited({ developer: me }, range)).map(plain));
  record.keep("transfers to the vault", (await dollar.getEvents.Transfer({ from: me, to: vault.address }, range)).map(plain));
  const events = dollar.abi.filter((item) => item.type === "event" && ["Transfer", "Approval"].includes(item.name));
  const either = await client.getLogs({ address: [dollar.address, vault.address], events, ...range });
  record.keep("logs of either topic", either.map(plain));
  const filter = await client.createContractEventFilter({ address: dollar.address, abi: dollar.abi, eventName: "Transfer", ...range });
  record.keep("logs of a filter", (await client.getFilterLogs({ filter })).map(plain));
  record.keep("filter removed", await client.uninstallFilter({ filter }));
  const block = await client.getBlock({ blockNumber: 3n });
  record.keep("block", await client.getBlock({ blockHash: block.hash, includeTransactions: true }));
  const tags = ["latest", "safe", "finalized", "earliest"].map(async (blockTag) => (await client.getBlock({ blockTag })).number);
  record.keep("block tags", await Promise.all(tags));
  record.keep("transaction", await client.getTransaction({ blockNumber: 3n, index: 0 }).catch(() => client.getTransaction({ hash: block.transactions[0] })));
  const [{ args }] = parseEventLogs({ abi: vault.abi, eventName: "Allotted", logs: await client.getLogs({ address: vault.address, ...range }) });
  record.keep("parsed", args);
}

async function events(dollar) {
  const socket = createPublicClient({ chain, transport: webSocket(plan.ws, { retryCount: 0 }) });
  const height = await client.getBlockNumber();
  const stops = [];
  const heard = (watch) => new Promise((resolve, onError) => stops.push(watch(resolve, onError)));
  const onLogs = (resolve) => (logs) => resolve(logs.map(plain));
  const mint = { address: dollar.address, abi: dollar.abi, eventName: "Transfer", args: { to: ROUTER } };
  const polled = heard((resolve, onError) => client.watchContractEvent({ ...mint, onLogs: onLogs(resolve), onError, poll: true, pollingInterval: 50 }));
  const pushed = heard((resolve, onError) => socket.watchContractEvent({ ...mint, onLogs: onLogs(resolve), onError }));
  const block = heard((resolve, onError) => socket.watchBlockNumber({ onBlockNumber: (number) => number > height && resolve(number), onError }));
  await socket.getBlockNumber();
  await new Promise((resolve) => setTimeout(resolve, 300));
  await client.waitForTransactionReceipt({ hash: await dollar.write.mint([ROUTER, 42n], fees) });
  record.keep("event polled", await within(10, "the polled event", polled));
  record.keep("event pushed", await within(10, "the pushed event", pushed));
  record.keep("block pushed", await within(10, "the pushed block", block));
  stops.forEach((stop) => stop());
}

/** Comes last: how many blocks these take hangs on when they arrive. */
async function atOnce() {
  const send = (request) => wallet.sendTransaction({ to: POOL, gas: 21_000n, ...fees, ...request });
  const nonce = await client.getTransactionCount({ address: me });
  const ahead = await send({ nonce: nonce + 1, value: 6n });
  record.keep("a nonce ahead waits", (await client.getTransaction({ hash: ahead })).blockNumber);
  await client.waitForTransactionReceipt({ hash: await send({ nonce, value: 7n }) });
  const { status, gasUsed } = await client.waitForTransactionReceipt({ hash: ahead });
  record.keep("a nonce ahead is in", { status, gasUsed });
}

async function byDefault() {
  // Everything by default, from another account. anvil suggests a tip of 1 gwei that its own fee of 0 does not cover.
  if (!plan.defaults) return;
  const other = createWalletClient({ account: privateKeyToAccount(plan.keys[1]), chain, transport });
  const { status, gasUsed, type } = await client.waitForTransactionReceipt({ hash: await other.sendTransaction({ to: POOL, value: 4n }) });
  record.keep("all by default", { status, gasUsed, type });
}

await basics();
const dollar = await deploy("TestDollar", []);
const stoa = await deploy("StoaToken", [me]);
const registry = await deploy("ProviderRegistry", []);
const vault = await deploy("PaymentVault", [dollar.address, registry.address, VAULT_PARAMS, me]);
await transfers();
await refusals();
await tokens(dollar, stoa);
await custody(dollar, vault);
await history(dollar, vault);
await events(dollar);
await atOnce();
await byDefault();
record.print();
process.exit(0); // The socket would keep the process.
