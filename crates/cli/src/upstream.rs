//! The upstream server of the settings and options: how `up` and `doctor` open it.

use crate::config::Config;
use crate::process::{Failure, complain};
use std::path::PathBuf;
use std::time::Duration;
use stoa_runtime::{Probe, UpstreamBackend, UpstreamFault, UpstreamOptions};

/// Options about an upstream server.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct UpstreamArgs {
    /// Serves the model of this OpenAI-compatible server (llama.cpp, vLLM, SGLang, TGI, ...) at tier `none`, with or without /v1.
    #[arg(long, value_name = "URL")]
    upstream: Option<String>,
    /// Which of the upstream server's models; needed where it lists several.
    #[arg(long, value_name = "ID")]
    upstream_model: Option<String>,
    /// File that holds the upstream server's key.
    #[arg(long, value_name = "FILE")]
    upstream_key_file: Option<PathBuf>,
}

impl UpstreamArgs {
    /// Lays the options over the settings.
    pub fn apply(&self, config: &mut Config) {
        let settings = &mut config.upstream;
        if let Some(url) = &self.upstream {
            settings.url.clone_from(url);
        }
        if let Some(model) = &self.upstream_model {
            settings.model.clone_from(model);
        }
        if let Some(file) = &self.upstream_key_file {
            settings.key_file = file.display().to_string();
        }
    }
}

/// Connects to the server of the settings; `None` when they name none.
pub async fn connect(config: &Config) -> Result<Option<UpstreamBackend>, Failure> {
    let settings = &config.upstream;
    if settings.url.is_empty() {
        return Ok(None);
    }
    let mut options = UpstreamOptions::new(&settings.url);
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    options.key =
        match some(&settings.key_file) {
            Some(file) => Some(std::fs::read_to_string(&file).map_err(|error| {
                format!("cannot read the upstream server's key {file}: {error}")
            })?),
            None => None,
        };
    options.model = some(&settings.model);
    options.context = Some(settings.context).filter(|context| *context > 0);
    options.concurrency = Some(settings.concurrency).filter(|limit| *limit > 0);
    options.message_overhead = settings.message_overhead;
    options.timeouts.first_event = Duration::from_secs(settings.first_event_seconds);
    options.timeouts.silence = Duration::from_secs(settings.silence_seconds);
    Ok(Some(UpstreamBackend::connect(options).await?))
}

/// Tokens of the answer that shows whether a server can be served from.
const TRIAL_TOKENS: u32 = 8;

/// Connects, and makes one short answer: a server whose streams cannot be paid for is refused before anything is changed.
pub async fn connect_and_try(config: &Config) -> Result<Option<UpstreamBackend>, Failure> {
    let Some(backend) = connect(config).await? else {
        return Ok(None);
    };
    let probe: Result<Probe, UpstreamFault> = backend.probe(TRIAL_TOKENS).await;
    probe.map_err(|fault| {
        format!("{fault}; nothing was started, `stoa doctor --upstream URL` says more")
    })?;
    let info = backend.info();
    tracing::info!(
        url = info.url,
        server = info.kind.name(),
        version = info.version.as_deref().unwrap_or("unknown"),
        model = info.model,
        requests_at_once = info.concurrency,
        "upstream server"
    );
    if !info.context_known {
        let _ = complain(
            "the upstream server does not say how long its model's context is: 4096 tokens are offered; name it as `context` in [upstream]",
        );
    }
    Ok(Some(backend))
}
