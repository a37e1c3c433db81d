//! `stoa chain`: the embedded chain with the network's contracts, alone.

use super::Outcome;
use crate::config::{Config, Rhythm};
use crate::data::DataDir;
use crate::join::JoinFile;
use crate::launch::chain as embedded;
use crate::launch::service::{gone, listen, local, serve_metrics, until};
use crate::process::{StopSignal, complain, say};
use crate::profile::Profile;
use serde_json::json;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_evm::Chain;
use stoa_evm::rpc::{RpcConfig, serve};
use tokio::sync::watch;

/// Arguments of `stoa chain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of the JSON-RPC on loopback; 0 takes any free one.
    #[arg(long, conflicts_with = "listen")]
    port: Option<u16>,
    /// Address of the JSON-RPC, for roles on other hosts. Whoever reaches it can use the chain: keep it within your own network.
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// URL that join.json tells the other roles; the address it listens on, if not named.
    #[arg(long, value_name = "URL")]
    announce: Option<String>,
    /// Address of the Prometheus metrics; without it there are none.
    #[arg(long, value_name = "IP:PORT")]
    metrics: Option<SocketAddr>,
    /// Network profile: stoa or infera.
    #[arg(long)]
    profile: Option<String>,
    #[command(flatten)]
    rhythm: Rhythm,
    /// Leaves the network's contracts out: an empty chain for other uses, which nobody can join.
    #[arg(long, conflicts_with = "announce")]
    bare: bool,
    /// Lays the settings of this file over the defaults, as `up` does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints one line of JSON when ready.
    #[arg(long)]
    json: bool,
}

/// Opens or creates the chain of the data folder, puts the contracts on it and serves it until Ctrl-C or SIGTERM.
pub async fn chain(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    if let Some(profile) = &args.profile {
        config.up.profile.clone_from(profile);
    }
    let asked = config.asked_profile(&args.rhythm)?;
    let named = args.profile.is_some() || args.rhythm.is_named();
    let data = DataDir::open(data)?;
    let address = args
        .listen
        .unwrap_or_else(|| local(args.port.unwrap_or(config.up.rpc_port)));
    let listener = listen(address, "the chain's RPC", "--port or --listen").await?;
    let (stop, stopped) = watch::channel(false);
    if let Some(address) = args.metrics {
        let metrics = listen(address, "metrics", "--metrics").await?;
        serve_metrics(metrics, until(stopped))?;
    }
    let profile = Profile::settle(&data, asked, named)?;
    let chain = embedded::open(&data, &profile)?;
    tokio::spawn(embedded::watch(chain.clone()));
    let address = listener.local_addr()?;
    let join = if args.bare {
        None
    } else {
        Some(found(&data, args, profile, &chain, address).await?)
    };
    let mut signal = StopSignal::new()?;
    if let Err(error) = tell(args, &data, join.as_ref(), address, &chain) {
        complain(error)?;
    }
    let told = async move {
        signal.wait().await;
        let _ = stop.send(true);
    };
    tokio::select! {
        served = serve(listener, chain.clone(), RpcConfig::default(), told) => served?,
        gone = gone(&data) => return Err(gone),
    }
    chain.close();
    Ok(())
}

/// Puts the contracts on the chain and writes down how to join.
async fn found(
    data: &DataDir,
    args: &Args,
    profile: Profile,
    chain: &Arc<Chain>,
    address: SocketAddr,
) -> Outcome<JoinFile> {
    let (joined, _) = embedded::found(data, profile, chain).await?;
    let announced = args.announce.clone();
    let file = JoinFile {
        rpc: announced.unwrap_or_else(|| format!("http://{address}")),
        chain_id: joined.chain_id,
        contracts: joined.contracts,
        profile: joined.profile.text.clone(),
    };
    if args.announce.is_none() && address.ip().is_unspecified() {
        complain(format_args!(
            "join.json names {address}, which others cannot reach; name this host's URL with --announce"
        ))?;
    }
    file.publish(data)?;
    Ok(file)
}

fn tell(
    args: &Args,
    data: &DataDir,
    join: Option<&JoinFile>,
    address: SocketAddr,
    chain: &Chain,
) -> std::io::Result<()> {
    let (id, head) = (chain.chain_id(), chain.head().number);
    if args.json {
        let rpc = join.map_or_else(|| format!("http://{address}"), |file| file.rpc.clone());
        let contracts = join.map(|file| file.contracts);
        return say(
            json!({"ready": true, "chain_id": id, "rpc": rpc, "block": head, "contracts": contracts}),
        );
    }
    let others = if join.is_some() {
        let file = data.path("join.json");
        format!("; the other roles join with --join {}", file.display())
    } else {
        String::new()
    };
    say(format_args!(
        "chain {id} at http://{address}, block {head}{others}"
    ))
}
