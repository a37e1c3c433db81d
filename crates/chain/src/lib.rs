//! Contract bindings, chain access, event indexer, sender.
//!
//! What the binary builds on (names may improve, the shape should stay):
//! - `trait ChainAccess` (async, object safe): `Embedded(Arc<stoa_evm::Chain>)` and `Rpc::new(url)`.
//! - `Contracts {stoa_token, test_dollar, stake_registry, provider_registry, payment_vault}` (serde, `by_name() -> BTreeMap<String, Address>`);
//!   `deploy(&access, &deployer_key, &NetworkProfile) -> Contracts`.
//! - `Sender::new(access, key)`: `send(to, calldata) -> Result<Mined {block, time, hash, gas_used}, SendError>` (revert decoded to the
//!   custom error's name and values), one at a time with its own nonce; never sends a batch twice.
//! - `calls::*`: typed calldata for what roles and commands send (mint, approve, transfer, stake, register, set_loadout, register_router,
//!   deposit, allot, top_up, withdraw, post_batch, promote, sync_debits, claim, collect ...), in `stoa_types` words.
//! - `Reader::new(access, contracts)`: `free(dev)`, `allotment(dev, router)`, `head(router) -> (posts, chain_head)`, `claimable(router)`,
//!   `pending(router)`, `owed(who)`, `claimed(..)`, `token_balance(who)`, `provider_stake(who) -> {staked, slashed}`,
//!   `is_active(role, who)`, `endpoint_of(account)` with its proof, `vault_balance()`.
//! - `Indexer::new(access, contracts, from_block)`: `poll() -> Vec<Indexed {block, time, event: Event}>` with a typed `Event` enum.
