//! `stoa chain`: the embedded chain alone.

use super::Outcome;
use crate::data::DataDir;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use stoa_chain::evm_address;
use stoa_crypto::keccak256;
use stoa_evm::rpc::{RpcConfig, serve};
use stoa_evm::{Allocation, Chain, ChainConfig, Genesis};

/// Arguments of `stoa chain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of the JSON-RPC; 0 takes any free one.
    #[arg(long, default_value_t = 8545)]
    port: u16,
}

/// Opens or creates `chain.redb` in the data folder and serves it until Ctrl-C.
pub async fn chain(data: &Path, args: &Args) -> Outcome {
    let data = DataDir::open(data)?;
    let path = data.path("chain.redb");
    let genesis = if path.exists() {
        None
    } else {
        let owner = data.account_key("deployer")?.address();
        let balance = alloy_primitives::U256::from(10u128.pow(21));
        let allocations = vec![Allocation {
            address: evm_address(owner),
            balance,
        }];
        Some(Genesis {
            timestamp: crate::roles::router::now().secs(),
            salt: keccak256(data.secret("genesis")?).0.into(),
            allocations,
        })
    };
    let chain = Arc::new(Chain::open(
        path,
        ChainConfig {
            genesis,
            seal_window: Duration::from_millis(2),
            ..ChainConfig::default()
        },
    )?);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, args.port));
    let listener = tokio::net::TcpListener::bind(address).await;
    let listener = listener.map_err(|error| {
        format!(
            "port {} cannot be used: {error}; choose another with --port",
            args.port
        )
    })?;
    println!(
        "chain {} at http://{}, block {}",
        chain.chain_id(),
        listener.local_addr()?,
        chain.head().number
    );
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    serve(listener, chain.clone(), RpcConfig::default(), stop).await?;
    chain.close();
    Ok(())
}
