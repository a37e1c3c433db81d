//! `stoa chain`: the embedded chain alone.

use super::Outcome;
use crate::config::Config;
use crate::data::DataDir;
use crate::process::{StopSignal, complain, say};
use crate::up::{Profile, listen, open_chain};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use stoa_evm::rpc::{RpcConfig, serve};

/// Arguments of `stoa chain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Port of the JSON-RPC; 0 takes any free one.
    #[arg(long)]
    port: Option<u16>,
    /// Lays the settings of this file over the defaults, as `up` does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Opens or creates the chain of the data folder and serves it until Ctrl-C or SIGTERM.
pub async fn chain(data: &Path, args: &Args) -> Outcome {
    let config = Config::load(args.config.as_deref())?;
    let data = DataDir::open(data)?;
    let port = args.port.unwrap_or(config.up.rpc_port);
    let listener = listen(port, "the chain's RPC", "--port").await?;
    let profile = Profile::settle(&data, config.asked_profile(None)?, false)?;
    let chain = Arc::new(open_chain(&data, &profile)?);
    let mut signal = StopSignal::new()?;
    let (id, address) = (chain.chain_id(), listener.local_addr()?);
    let head = chain.head().number;
    if let Err(error) = say(format_args!("chain {id} at http://{address}, block {head}")) {
        complain(error)?;
    }
    let stop = async move { signal.wait().await };
    serve(listener, chain.clone(), RpcConfig::default(), stop).await?;
    chain.close();
    Ok(())
}
