//! A developer's day with alloy: `stoa-wallet-alloy '{"rpc", "ws", "keys": [payer, other], "chainId", "expiry"}'`.
//!
//! Prints what it learned as one JSON object; the driver compares it between two chains.

use std::error::Error;
use std::time::Duration;

use alloy_eips::{BlockId, BlockNumberOrTag};
use alloy_network::{
    EthereumWallet, NetworkTransactionBuilder, TransactionBuilder, TransactionResponse,
};
use alloy_primitives::{Address, B256, Bytes, U256, address, uint};
use alloy_provider::{DynProvider, PendingTransactionBuilder, Provider, ProviderBuilder};
use alloy_rpc_client::{BatchRequest, ClientBuilder};
use alloy_rpc_types_eth::{AccessList, AccessListItem, Filter, TransactionRequest};
use alloy_signer::SignerSync;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolEvent, eip712_domain, sol};
use alloy_transport::{RpcError, TransportError};
use alloy_transport_ws::WsConnect;
use futures_util::StreamExt;
use serde_json::{Map, Value, json};

sol!(
    #[sol(rpc, all_derives = true)]
    PaymentVault,
    "../../../../contracts/artifacts/PaymentVault.json"
);
sol!(
    #[sol(rpc)]
    ProviderRegistry,
    "../../../../contracts/artifacts/ProviderRegistry.json"
);
sol!(
    #[sol(rpc)]
    StoaToken,
    "../../../../contracts/artifacts/StoaToken.json"
);
sol!(
    #[sol(rpc)]
    TestDollar,
    "../../../../contracts/artifacts/TestDollar.json"
);
sol! {
    struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Receives transfers and fees. Nobody holds its key.
const POOL: Address = address!("0000000000000000000000000000000000000b0b");
/// The router that the developer allots to. Nobody holds its key.
const ROUTER: Address = address!("00000000000000000000000000000000000a110c");
/// How long an event may take to arrive.
const EVENT: Duration = Duration::from_secs(10);

/// Values by step.
#[derive(Default)]
struct Record(Map<String, Value>);

impl Record {
    fn keep(&mut self, step: &str, value: impl Into<Value>) {
        let before = self.0.insert(step.to_owned(), value.into());
        assert!(before.is_none(), "step \"{step}\" is there twice");
        // Shown by the driver when a later step fails.
        eprintln!("{step}");
    }

    async fn receipt(
        &mut self,
        step: &str,
        sent: PendingTransactionBuilder<alloy_network::Ethereum>,
    ) -> Outcome<Value> {
        let receipt = serde_json::to_value(sent.get_receipt().await?)?;
        self.keep(step, receipt.clone());
        Ok(receipt)
    }

    /// Keeps the words that an error of the chain must contain.
    fn refused<T>(
        &mut self,
        step: &str,
        outcome: Result<T, TransportError>,
        words: &str,
    ) -> Outcome {
        match outcome {
            Err(RpcError::ErrorResp(error)) if error.message.to_lowercase().contains(words) => {
                self.keep(step, words);
                Ok(())
            }
            Err(error) => Err(format!("{step}: {error}").into()),
            Ok(_) => Err(format!("{step} was not refused").into()),
        }
    }
}

/// Everything that the steps share.
struct Day {
    record: Record,
    provider: DynProvider,
    signer: PrivateKeySigner,
    me: Address,
    plan: Value,
}

/// The transaction with no fee, as a chain with base fee 0 allows.
macro_rules! free {
    ($call:expr) => {
        $call.max_fee_per_gas(0).max_priority_fee_per_gas(0)
    };
}

fn transfer(value: u64) -> TransactionRequest {
    TransactionRequest::default()
        .with_to(POOL)
        .with_value(U256::from(value))
        .with_max_fee_per_gas(0)
        .with_max_priority_fee_per_gas(0)
}

fn provider(plan: &Value, key: usize) -> Outcome<(DynProvider, PrivateKeySigner)> {
    let signer: PrivateKeySigner = plan["keys"][key].as_str().ok_or("no key")?.parse()?;
    let client = ClientBuilder::default().http(plan["rpc"].as_str().ok_or("no rpc")?.parse()?);
    client.set_poll_interval(Duration::from_millis(50));
    let provider = ProviderBuilder::default()
        // The nonce is asked for each time: some transactions here are sent by other ways.
        .with_simple_nonce_management()
        .with_gas_estimation()
        .fetch_chain_id()
        .wallet(EthereumWallet::from(signer.clone()))
        .connect_client(client);
    Ok((provider.erased(), signer))
}

impl Day {
    fn expiry(&self) -> u64 {
        self.plan["expiry"].as_u64().unwrap_or_default()
    }

    async fn basics(&mut self) -> Outcome {
        let (p, r) = (&self.provider, &mut self.record);
        r.keep("chain id", p.get_chain_id().await?);
        r.keep("height", p.get_block_number().await?);
        r.keep("gas price", p.get_gas_price().await?.to_string());
        r.keep("balance", p.get_balance(self.me).await?.to_string());
        r.keep("nonce", p.get_transaction_count(self.me).await?);
        r.keep(
            "nonce pending",
            p.get_transaction_count(self.me).pending().await?,
        );
        r.keep(
            "fee history",
            serde_json::to_value(
                p.get_fee_history(2, BlockNumberOrTag::Latest, &[50.0])
                    .await?,
            )?,
        );
        r.keep(
            "fee history without percentiles",
            serde_json::to_value(p.get_fee_history(2, BlockNumberOrTag::Latest, &[]).await?)?,
        );
        let mut batch = BatchRequest::new(p.client());
        let id = batch.add_call::<_, U256>("eth_chainId", &())?;
        let height = batch.add_call::<_, U256>("eth_blockNumber", &())?;
        batch.send().await?;
        r.keep("a batch", json!([id.await?, height.await?]));
        Ok(())
    }

    async fn transfers(&mut self) -> Outcome {
        let (p, r) = (&self.provider, &mut self.record);
        let legacy = TransactionRequest::default()
            .with_to(POOL)
            .with_value(U256::from(1))
            .with_gas_price(0);
        r.receipt("legacy", p.send_transaction(legacy.clone()).await?)
            .await?;
        let item = AccessListItem {
            address: ROUTER,
            storage_keys: vec![B256::with_last_byte(1)],
        };
        let listed = legacy.with_access_list(AccessList(vec![item]));
        r.receipt("access list", p.send_transaction(listed).await?)
            .await?;
        r.receipt("dynamic fee", p.send_transaction(transfer(3)).await?)
            .await?;
        r.keep("received", p.get_balance(POOL).await?.to_string());
        let before = p.get_block_number().await? - 2;
        r.keep(
            "received before",
            p.get_balance(POOL)
                .block_id(before.into())
                .await?
                .to_string(),
        );
        Ok(())
    }

    async fn refusals(&mut self) -> Outcome {
        let (p, r) = (&self.provider, &mut self.record);
        let next =
            |nonce: u64, value: u64| transfer(value).with_nonce(nonce).with_gas_limit(21_000);
        let nonce = p.get_transaction_count(self.me).await?;
        let chain_id = p.get_chain_id().await?;
        let envelope = next(nonce, 5)
            .with_chain_id(chain_id)
            .build(&EthereumWallet::from(self.signer.clone()))
            .await?;
        let raw = alloy_eips::eip2718::Encodable2718::encoded_2718(&envelope);
        r.receipt("raw", p.send_raw_transaction(&raw).await?)
            .await?;
        r.refused(
            "raw again",
            p.send_raw_transaction(&raw).await,
            "nonce too low",
        )?;
        r.refused(
            "nonce too low",
            p.send_transaction(next(0, 1)).await,
            "nonce too low",
        )?;
        let rich = transfer(0)
            .with_value(uint!(1000000000000000000000000000000_U256))
            .with_gas_limit(21_000);
        r.refused(
            "too little money",
            p.send_transaction(rich).await,
            "insufficient funds",
        )?;
        r.refused(
            "too little gas",
            p.send_transaction(transfer(1).with_gas_limit(20_000)).await,
            "intrinsic gas too low",
        )?;
        if self.plan["defaults"] == true {
            r.refused(
                "no proofs",
                p.get_proof(self.me, vec![]).await,
                "does not exist",
            )?;
            let traced: Result<Value, _> = p
                .raw_request("debug_traceTransaction".into(), [B256::ZERO])
                .await;
            r.refused("no traces", traced, "does not exist")?;
        }
        Ok(())
    }

    /// v, r and s over a permit of the token with this name.
    fn permit(
        &self,
        name: &'static str,
        token: Address,
        spender: Address,
        value: u64,
        nonce: U256,
    ) -> Outcome<(u8, B256, B256)> {
        let domain = eip712_domain! {
            name: name, version: "1", chain_id: self.plan["chainId"].as_u64().ok_or("no chain id")?, verifying_contract: token,
        };
        let permit = Permit {
            owner: self.me,
            spender,
            value: U256::from(value),
            nonce,
            deadline: U256::from(self.expiry()),
        };
        let signature = self.signer.sign_typed_data_sync(&permit, &domain)?;
        Ok((
            27 + u8::from(signature.v()),
            signature.r().into(),
            signature.s().into(),
        ))
    }

    async fn tokens(&mut self, dollar: Address, stoa: Address) -> Outcome {
        let p = self.provider.clone();
        let (dollar, stoa) = (TestDollar::new(dollar, &p), StoaToken::new(stoa, &p));
        let (me, deadline, value) = (self.me, U256::from(self.expiry()), U256::from(123));
        let sent = free!(dollar.mint(me, U256::from(1_000_000))).send().await?;
        self.record.receipt("mint", sent).await?;
        self.record.keep(
            "token balance",
            dollar.balanceOf(me).call().await?.to_string(),
        );
        self.record.keep(
            "estimate",
            free!(dollar.transfer(POOL, U256::from(5)).from(me))
                .estimate_gas()
                .await?,
        );
        let (v, r, s) = self.permit(
            "Test Dollar (devnet only)",
            *dollar.address(),
            POOL,
            123,
            dollar.nonces(me).call().await?,
        )?;
        let sent = free!(dollar.permit(me, POOL, value, deadline, v, r, s))
            .send()
            .await?;
        self.record.receipt("permit TestDollar", sent).await?;
        self.record.keep(
            "allowance TestDollar",
            dollar.allowance(me, POOL).call().await?.to_string(),
        );
        let (v, r, s) = self.permit(
            "Stoa",
            *stoa.address(),
            POOL,
            123,
            stoa.nonces(me).call().await?,
        )?;
        let sent = free!(stoa.permit(me, POOL, value, deadline, v, r, s))
            .send()
            .await?;
        self.record.receipt("permit StoaToken", sent).await?;
        assert_eq!(stoa.allowance(me, POOL).call().await?, value);
        let Err(again) = stoa.permit(me, POOL, value, deadline, v, r, s).call().await else {
            return Err("the permit was taken twice".into());
        };
        let reason = again
            .as_decoded_interface_error::<StoaToken::StoaTokenErrors>()
            .ok_or("no custom error of the token")?;
        assert!(matches!(
            reason,
            StoaToken::StoaTokenErrors::ERC2612InvalidSigner(_)
        ));
        self.record.keep(
            "permit twice",
            again.as_revert_data().map(|data: Bytes| data.to_string()),
        );
        Ok(())
    }

    async fn custody(&mut self, dollar: Address, vault: Address) -> Outcome {
        let p = self.provider.clone();
        let (dollar, vault) = (TestDollar::new(dollar, &p), PaymentVault::new(vault, &p));
        let (me, expiry, at) = (self.me, self.expiry(), *vault.address());
        let sent = free!(dollar.approve(at, U256::from(600_000)))
            .send()
            .await?;
        self.record.receipt("approve", sent).await?;
        let sent = free!(vault.deposit(600_000)).send().await?;
        self.record.receipt("deposit", sent).await?;
        let (v, r, s) = self.permit(
            "Test Dollar (devnet only)",
            *dollar.address(),
            at,
            100_000,
            dollar.nonces(me).call().await?,
        )?;
        let sent = free!(vault.depositWithPermit(100_000, U256::from(expiry), v, r, s))
            .send()
            .await?;
        self.record.receipt("deposit with permit", sent).await?;
        let sent = free!(vault.allot(ROUTER, 200_000, expiry)).send().await?;
        self.record.receipt("allot", sent).await?;
        let sent = free!(vault.withdraw(150_000)).send().await?;
        self.record.receipt("withdraw", sent).await?;
        assert_eq!(vault.free(me).call().await?, 350_000);
        let allotment = vault.allotment(me, ROUTER).call().await?;
        self.record.keep("allotment", format!("{allotment:?}"));
        let Err(short) = vault.withdraw(1_000_000_000).from(me).call().await else {
            return Err("more than all was withdrawn".into());
        };
        let reason = short
            .as_decoded_interface_error::<PaymentVault::PaymentVaultErrors>()
            .ok_or("no custom error of the vault")?;
        let PaymentVault::PaymentVaultErrors::InsufficientFree(told) = reason else {
            return Err(format!("another error than expected: {reason:?}").into());
        };
        assert_eq!(
            (told.developer, told.free, told.wanted),
            (me, 350_000, 1_000_000_000)
        );
        let sent = free!(vault.withdraw(1_000_000_000))
            .gas(200_000)
            .send()
            .await?;
        let failed = self.record.receipt("a reverted transaction", sent).await?;
        assert_eq!(failed["status"], "0x0");
        let events = vault
            .Allotted_filter()
            .topic1(me)
            .from_block(0)
            .query()
            .await?;
        self.record.keep(
            "allotments",
            events
                .iter()
                .map(|(event, _)| format!("{event:?}"))
                .collect::<Vec<_>>(),
        );
        Ok(())
    }

    async fn history(&mut self, dollar: Address, vault: Address) -> Outcome {
        let (p, r) = (&self.provider, &mut self.record);
        let to_vault = Filter::new()
            .address(dollar)
            .event_signature(TestDollar::Transfer::SIGNATURE_HASH)
            .topic2(vault.into_word())
            .from_block(0);
        r.keep(
            "transfers to the vault",
            serde_json::to_value(p.get_logs(&to_vault).await?)?,
        );
        let either = Filter::new().event_signature(vec![
            TestDollar::Transfer::SIGNATURE_HASH,
            TestDollar::Approval::SIGNATURE_HASH,
        ]);
        r.keep(
            "logs of either topic",
            serde_json::to_value(p.get_logs(&either.from_block(0)).await?)?,
        );
        let block = p
            .get_block_by_number(3.into())
            .full()
            .await?
            .ok_or("no block 3")?;
        let by_hash = p
            .get_block(BlockId::hash(block.header.hash))
            .full()
            .await?
            .ok_or("no such hash")?;
        assert_eq!(block, by_hash);
        r.keep("block", serde_json::to_value(&block)?);
        for tag in [
            BlockNumberOrTag::Latest,
            BlockNumberOrTag::Safe,
            BlockNumberOrTag::Finalized,
            BlockNumberOrTag::Earliest,
        ] {
            let block = p.get_block_by_number(tag).await?.ok_or("no such tag")?;
            r.keep(&format!("block {tag}"), block.header.number);
        }
        let hash = block
            .transactions
            .txns()
            .next()
            .ok_or("an empty block")?
            .tx_hash();
        r.keep(
            "transaction",
            serde_json::to_value(p.get_transaction_by_hash(hash).await?)?,
        );
        r.keep(
            "receipts of the block",
            serde_json::to_value(p.get_block_receipts(3.into()).await?)?,
        );
        Ok(())
    }

    /// Comes last: how many blocks these take hangs on when they arrive.
    async fn at_once(&mut self) -> Outcome {
        let (p, r) = (&self.provider, &mut self.record);
        let next =
            |nonce: u64, value: u64| transfer(value).with_nonce(nonce).with_gas_limit(21_000);
        let nonce = p.get_transaction_count(self.me).await?;
        let ahead = p.send_transaction(next(nonce + 1, 6)).await?;
        p.send_transaction(next(nonce, 7))
            .await?
            .get_receipt()
            .await?;
        r.keep("a nonce ahead is in", ahead.get_receipt().await?.status());
        // Everything by default, from another account: fees are asked for, so only what does not hang on them is kept.
        let (other, _) = provider(&self.plan, 1)?;
        let default = TransactionRequest::default()
            .with_to(POOL)
            .with_value(U256::from(4));
        let receipt = other.send_transaction(default).await?.get_receipt().await?;
        r.keep(
            "all by default",
            json!([receipt.status(), receipt.gas_used]),
        );
        Ok(())
    }

    async fn events(&mut self, dollar: Address) -> Outcome {
        let url = self.plan["ws"].as_str().ok_or("no ws")?;
        let socket = ProviderBuilder::new()
            .connect_client(ClientBuilder::default().pubsub(WsConnect::new(url)).await?);
        let filter = Filter::new()
            .address(dollar)
            .event_signature(TestDollar::Transfer::SIGNATURE_HASH);
        let mut heads = socket.subscribe_blocks().await?;
        let mut logs = socket.subscribe_logs(&filter).await?;
        let mut polled = self.provider.watch_logs(&filter).await?.into_stream();
        let sent = free!(TestDollar::new(dollar, &self.provider).mint(ROUTER, U256::from(42)))
            .send()
            .await?;
        self.record.receipt("mint for the listeners", sent).await?;
        let head = tokio::time::timeout(EVENT, heads.recv()).await??;
        self.record.keep("block pushed", head.number);
        let log = tokio::time::timeout(EVENT, logs.recv()).await??;
        self.record.keep("event pushed", serde_json::to_value(log)?);
        let log = tokio::time::timeout(EVENT, polled.next()).await?;
        self.record.keep("event polled", serde_json::to_value(log)?);
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let plan: Value =
        serde_json::from_str(&std::env::args().nth(1).ok_or("a plan in JSON is needed")?)?;
    let (provider, signer) = provider(&plan, 0)?;
    let mut day = Day {
        record: Record::default(),
        me: signer.address(),
        provider,
        signer,
        plan,
    };
    let (p, me) = (day.provider.clone(), day.me);
    day.basics().await?;
    let mut at = Vec::new();
    let params = PaymentVault::VaultParams {
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
    for name in [
        "TestDollar",
        "StoaToken",
        "ProviderRegistry",
        "PaymentVault",
    ] {
        let sent = match name {
            "TestDollar" => free!(TestDollar::deploy_builder(&p)).send().await?,
            "StoaToken" => free!(StoaToken::deploy_builder(&p, me)).send().await?,
            "ProviderRegistry" => free!(ProviderRegistry::deploy_builder(&p)).send().await?,
            _ => {
                free!(PaymentVault::deploy_builder(
                    &p,
                    at[0],
                    at[2],
                    params.clone(),
                    me
                ))
                .send()
                .await?
            }
        };
        let receipt = day.record.receipt(&format!("deploy {name}"), sent).await?;
        at.push(
            receipt["contractAddress"]
                .as_str()
                .ok_or("no contract")?
                .parse()?,
        );
    }
    day.transfers().await?;
    day.refusals().await?;
    day.tokens(at[0], at[1]).await?;
    day.custody(at[0], at[3]).await?;
    day.history(at[0], at[3]).await?;
    day.events(at[0]).await?;
    day.at_once().await?;
    println!("{}", Value::Object(day.record.0));
    Ok(())
}
