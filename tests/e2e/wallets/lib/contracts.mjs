// The committed artefacts, and how the scripts deploy them.
import { readFileSync } from "node:fs";

const artefact = (name) => JSON.parse(readFileSync(new URL(`../../../../contracts/artifacts/${name}.json`, import.meta.url), "utf8"));

export const CONTRACTS = Object.fromEntries(
  ["TestDollar", "StoaToken", "ProviderRegistry", "PaymentVault"].map((name) => [name, artefact(name)]),
);

/** Addresses that appear as pools and as the router that a developer allots to. Nobody holds their keys. */
export const ROUTER = "0x00000000000000000000000000000000000a110c";
export const POOL = "0x0000000000000000000000000000000000000b0b";

/** A vault's constructor parameters: the shortest times, no smallest claim, three per cent of fees. */
export const VAULT_PARAMS = {
  window: 0,
  notice: 0,
  settleDelay: 0,
  claimMin: 0,
  routerBps: 150,
  treasuryBps: 50,
  validatorsBps: 50,
  buybackBps: 50,
  treasury: POOL,
  validatorsPool: POOL,
  buyback: POOL,
};

/** A contract of 12 bytes that stops with an invalid opcode when it is called. */
export const INVALID_INIT = "0x60fe60005360016000f3";
