// A developer's day with ethers 6: node ethers.mjs '{"rpc", "ws", "keys": [payer, other], "chainId", "expiry"}'
import assert from "node:assert/strict";
import { Contract, ContractFactory, JsonRpcProvider, NonceManager, Signature, Wallet, WebSocketProvider, id, zeroPadValue } from "ethers";
import { CONTRACTS, POOL, ROUTER, VAULT_PARAMS } from "./lib/contracts.mjs";
import { Record, within } from "./lib/record.mjs";

const plan = JSON.parse(process.argv[2]);
const record = new Record();
const provider = new JsonRpcProvider(plan.rpc, undefined, { polling: true, cacheTimeout: -1 }); // a cached nonce would be a used one
provider.pollingInterval = 50;
const wallet = new Wallet(plan.keys[0], provider);
const me = wallet.address;
const fees = { maxFeePerGas: 0, maxPriorityFeePerGas: 0 };

const receiptOf = async (step, sent) => {
  const receipt = await (await sent).wait();
  const { provider: _, blockHash: __, ...rest } = receipt;
  if (step.startsWith("a nonce ahead")) delete rest.blockNumber;
  return record.keep(step, { ...rest, logs: receipt.logs.map(({ address, topics, data, index }) => ({ address, topics, data, index })) }) && receipt;
};

const deploy = async (name, ...values) => {
  const factory = new ContractFactory(CONTRACTS[name].abi, CONTRACTS[name].bytecode, wallet);
  const contract = await factory.deploy(...values, fees);
  await receiptOf(`deploy ${name}`, contract.deploymentTransaction());
  return contract;
};

async function basics() {
  record.keep("chain id", (await provider.getNetwork()).chainId);
  record.keep("height", await provider.getBlockNumber());
  record.keep("gas price", (await provider.getFeeData()).gasPrice);
  record.keep("fee history", await provider.send("eth_feeHistory", ["0x2", "latest", [50]]));
  // Sent in one tick: ethers puts them into one batch.
  const balances = [me, POOL, ROUTER].map((account) => provider.getBalance(account));
  record.keep("balances in a batch", await Promise.all(balances));
  record.keep("nonce", [await provider.getTransactionCount(me), await provider.getTransactionCount(me, "pending")]);
}

async function transfers() {
  await receiptOf("legacy", wallet.sendTransaction({ type: 0, to: POOL, value: 1, gasPrice: 0 }));
  const accessList = [{ address: ROUTER, storageKeys: [zeroPadValue("0x01", 32)] }];
  await receiptOf("access list", wallet.sendTransaction({ type: 1, to: POOL, value: 2, gasPrice: 0, accessList }));
  await receiptOf("dynamic fee", wallet.sendTransaction({ type: 2, to: POOL, value: 3, ...fees }));
  record.keep("received", await provider.getBalance(POOL));
  record.keep("received before", await provider.getBalance(POOL, (await provider.getBlockNumber()) - 2));
}

async function refusals() {
  const code = (error) => error.code;
  const raw = await wallet.signTransaction({ ...fees, type: 2, chainId: plan.chainId, to: POOL, value: 5, gasLimit: 21_000, nonce: await provider.getTransactionCount(me) });
  await receiptOf("raw", provider.broadcastTransaction(raw));
  assert.equal(await record.refused("raw again", () => provider.broadcastTransaction(raw), code), "NONCE_EXPIRED");
  assert.equal(await record.refused("nonce too low", () => wallet.sendTransaction({ to: POOL, nonce: 0, gasLimit: 21_000, ...fees }), code), "NONCE_EXPIRED");
  assert.equal(await record.refused("too little money", () => wallet.sendTransaction({ to: POOL, value: 10n ** 30n, gasLimit: 21_000, ...fees }), code), "INSUFFICIENT_FUNDS");
}

const permitTypes = {
  Permit: ["owner:address", "spender:address", "value:uint256", "nonce:uint256", "deadline:uint256"].map((field) => {
    const [name, type] = field.split(":");
    return { name, type };
  }),
};

async function permit(token, spender, value, deadline) {
  const domain = { name: await token.name(), version: "1", chainId: plan.chainId, verifyingContract: await token.getAddress() };
  const message = { owner: me, spender, value, nonce: await token.nonces(me), deadline };
  return Signature.from(await wallet.signTypedData(domain, permitTypes, message));
}

async function tokens(dollar, stoa) {
  await receiptOf("mint", dollar.mint(me, 1_000_000, fees));
  record.keep("balance", await dollar.balanceOf(me));
  record.keep("stake balance", await stoa.balanceOf(me));
  record.keep("estimate", await dollar.transfer.estimateGas(POOL, 5));
  for (const [name, token] of [["TestDollar", dollar], ["StoaToken", stoa]]) {
    const { v, r, s } = await permit(token, POOL, 123, plan.expiry);
    await receiptOf(`permit ${name}`, token.permit(me, POOL, 123, plan.expiry, v, r, s, fees));
    assert.equal(record.keep(`allowance ${name}`, await token.allowance(me, POOL)), 123n);
    const twice = () => token.permit.staticCall(me, POOL, 123, plan.expiry, v, r, s);
    await record.refused(`permit ${name} twice`, twice, (error) => error.revert?.name ?? null);
  }
}

async function custody(dollar, vault) {
  const address = await vault.getAddress();
  await receiptOf("approve", dollar.approve(address, 600_000, fees));
  await receiptOf("deposit", vault.deposit(600_000, fees));
  const { v, r, s } = await permit(dollar, address, 100_000, plan.expiry);
  await receiptOf("deposit with permit", vault.depositWithPermit(100_000, plan.expiry, v, r, s, fees));
  await receiptOf("allot", vault.allot(ROUTER, 200_000, plan.expiry, fees));
  await receiptOf("withdraw", vault.withdraw(150_000, fees));
  assert.equal(record.keep("free", await vault.free(me)), 350_000n);
  record.keep("allotment", (await vault.allotment(me, ROUTER)).toArray());
  const reason = (error) => {
    const told = vault.interface.parseError(error.data);
    return told && [told.name, ...told.args];
  };
  const short = await record.refused("withdraw too much", () => vault.withdraw.staticCall(10 ** 9), reason);
  assert.deepEqual(short, ["InsufficientFree", me, 350_000n, 10n ** 9n]);
  await record.refused("withdraw too much, sent", () => vault.withdraw(10 ** 9, fees), reason);
  await record.refused("allot twice", () => vault.allot.staticCall(ROUTER, 1, plan.expiry), reason);
  const failed = await vault.withdraw(10 ** 9, { ...fees, gasLimit: 200_000 });
  await record.refused("a reverted transaction", () => failed.wait(), (error) => [error.code, error.receipt.status, error.receipt.gasUsed]);
}

async function history(dollar, vault) {
  const plain = ({ address, topics, data, blockNumber, index, transactionHash }) => ({ address, topics, data, blockNumber, index, transactionHash });
  record.keep("deposits", (await vault.queryFilter(vault.filters.Deposited(me))).map(plain));
  record.keep("transfers to the vault", (await dollar.queryFilter(dollar.filters.Transfer(me, await vault.getAddress()))).map(plain));
  const either = { fromBlock: 0, topics: [[id("Transfer(address,address,uint256)"), id("Approval(address,address,uint256)")], zeroPadValue(me, 32)] };
  record.keep("logs of either topic", (await provider.getLogs(either)).map(plain));
  const block = await provider.getBlock(3);
  const byHash = await provider.getBlock(block.hash, true);
  record.keep("block", [byHash.number, byHash.transactions, byHash.gasUsed, byHash.gasLimit, byHash.baseFeePerGas, byHash.miner]);
  record.keep("block tags", await Promise.all(["latest", "safe", "finalized", "earliest"].map(async (tag) => (await provider.getBlock(tag)).number)));
  const sent = await provider.getTransaction(byHash.transactions[0]);
  record.keep("transaction", [sent.from, sent.nonce, sent.type, sent.data.length, sent.signature.serialized]);
}

async function events(dollar) {
  const polled = new Promise((resolve) => dollar.once("Transfer", (from, to, value) => resolve([from, to, value])));
  await dollar.listeners("Transfer");
  await new Promise((resolve) => setTimeout(resolve, 200));
  const socket = new WebSocketProvider(plan.ws);
  const over = new Contract(await dollar.getAddress(), CONTRACTS.TestDollar.abi, socket);
  const height = await provider.getBlockNumber();
  const block = new Promise((resolve) => socket.on("block", (number) => number > height && resolve(number)));
  const pushed = new Promise((resolve) => over.on("Transfer", (from, to, value) => resolve([from, to, value])));
  await socket.getBlockNumber();
  await new Promise((resolve) => setTimeout(resolve, 200));
  await (await dollar.mint(ROUTER, 42, fees)).wait();
  record.keep("event polled", await within(10, "the polled event", polled));
  record.keep("event pushed", await within(10, "the pushed event", pushed));
  record.keep("block pushed", await within(10, "the pushed block", block));
  await socket.destroy();
}

/** Comes last: how many blocks these take hangs on when they arrive. */
async function atOnce() {
  const nonce = await provider.getTransactionCount(me);
  const ahead = await wallet.sendTransaction({ to: POOL, value: 6, gasLimit: 21_000, nonce: nonce + 1, ...fees });
  record.keep("a nonce ahead waits", await provider.getTransactionReceipt(ahead.hash));
  await (await wallet.sendTransaction({ to: POOL, value: 7, gasLimit: 21_000, nonce, ...fees })).wait();
  await receiptOf("a nonce ahead is in", within(10, "the transaction ahead", ahead.wait()).then(() => ahead));
  // Two at once from one account: the manager counts nonces itself.
  const managed = new NonceManager(wallet);
  const both = await Promise.all([1, 2].map(() => managed.sendTransaction({ to: POOL, value: 1, gasLimit: 21_000, ...fees })));
  await Promise.all(both.map((sent) => sent.wait()));
  record.keep("nonce after two at once", await provider.getTransactionCount(me, "pending"));
}

/** From another account. */
async function byDefault() {
  // Everything by default: fees are asked for, so only what does not hang on them is kept.
  const other = new Wallet(plan.keys[1], provider);
  const receipt = await (await other.sendTransaction({ to: POOL, value: 4 })).wait();
  record.keep("all by default", { status: receipt.status, gasUsed: receipt.gasUsed, type: receipt.type });
}

await basics();
const dollar = await deploy("TestDollar");
const stoa = await deploy("StoaToken", me);
const registry = await deploy("ProviderRegistry");
const vault = await deploy("PaymentVault", await dollar.getAddress(), await registry.getAddress(), VAULT_PARAMS, me);
await transfers();
await refusals();
await tokens(dollar, stoa);
await custody(dollar, vault);
await history(dollar, vault);
await events(dollar);
await atOnce();
await byDefault();
provider.destroy();
record.print();
