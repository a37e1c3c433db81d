//! `stoa doctor`: what a provider would serve with on this machine, what that would earn, what is wrong and what to do about it.

use super::Outcome;
use crate::apart;
use crate::config::{Config, Rhythm, market_slots};
use crate::data::{providers, read_secret};
use crate::join::JoinFile;
use crate::launch::models::{DEFAULT_MODEL, DEFAULT_MODEL_NAME};
use crate::launch::provider::is_at_stake;
use crate::launch::random;
use crate::packs::ModelFile;
use crate::process::say;
use crate::roles::gas::{ANSWERS_LEAST, answers_paid};
use crate::upstream::{UpstreamArgs, connect};
use serde::Serialize;
use serde_json::json;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use stoa_chain::{Rpc, StakeRole, View};
use stoa_crypto::SecretKey;
use stoa_ledger::fees::{FeeSchedule, Usage, reserve, split};
use stoa_nodes::work::{AnswerShape, Prompt, Work};
use stoa_runtime::{
    Backend, CancelFlag, ExactBackend, ExactOptions, Grammars, ModelFacts, Piece, UpstreamInfo,
    available_memory, discover_hardware,
};
use stoa_types::{Address, Hardware, NetworkProfile, Price, Q16, SamplingParameters, TokenAmount};

/// Arguments of `stoa doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    upstream: UpstreamArgs,
    /// Looks at this model (an imported one, a GGUF file or a safetensors folder) instead of the default one.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Lays the settings of this file over the defaults, as `up` does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Tokens of the answer that the speed is measured with.
const MEASURED_TOKENS: u32 = 64;
const HOUR_US: u128 = 3_600_000_000;

/// Something to know, and what to do about it.
#[derive(Debug, Serialize)]
struct Finding {
    /// Nothing can be served before it is done.
    hinders: bool,
    what: String,
    /// What to do.
    remedy: String,
}

/// How fast one answer at a time is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Speed {
    first_token_ms: u64,
    tokens: u64,
    /// From the first token to the last.
    rest_us: u64,
}

impl Speed {
    fn new(first_token: Duration, tokens: u64, rest: Duration) -> Self {
        let fit = |time: u128| u64::try_from(time).unwrap_or(u64::MAX);
        Self {
            first_token_ms: fit(first_token.as_millis()),
            tokens,
            rest_us: fit(rest.as_micros()),
        }
    }

    /// Tokens of one slot that is never idle; the first one of each answer is left out of the measure.
    fn tokens_per_hour(self) -> u64 {
        let made = u128::from(self.tokens.saturating_sub(1));
        let hour = made * HOUR_US / u128::from(self.rest_us.max(1));
        u64::try_from(hour).unwrap_or(u64::MAX)
    }
}

/// Everything that was found.
struct Found {
    hardware: Hardware,
    memory_free: Option<u64>,
    model: Option<ModelFacts>,
    upstream: Option<UpstreamInfo>,
    speed: Option<Speed>,
    slots: u32,
    prices: (Price, Price),
    findings: Vec<Finding>,
}

impl Found {
    fn note(&mut self, hinders: bool, what: impl Into<String>, remedy: impl Into<String>) {
        self.findings.push(Finding {
            hinders,
            what: what.into(),
            remedy: remedy.into(),
        });
    }
}

/// Looks, measures and tells; fails when nothing could be served.
pub async fn doctor(data: &Path, args: &Args) -> Outcome {
    let mut config = Config::load(args.config.as_deref())?;
    args.upstream.apply(&mut config);
    let profile = config.asked_profile(&Rhythm::default())?;
    let offer = config.providers.first();
    let offer = offer.ok_or("the settings name no [[providers]]: add one with its prices")?;
    let hardware = discover_hardware();
    let mut found = Found {
        slots: market_slots(&config.policy(0), hardware.cores),
        prices: (offer.input_price, offer.output_price),
        memory_free: available_memory(),
        hardware,
        model: None,
        upstream: None,
        speed: None,
        findings: Vec::new(),
    };
    if let Err(error) = config.check(found.hardware.cores) {
        found.note(true, error.to_string(), "correct the settings");
    }
    if config.upstream.url.is_empty() {
        look_at_engine(data, &config, args.model.as_deref(), &mut found)?;
    } else {
        look_at_upstream(&config, &mut found).await;
    }
    judge(&config, &profile, &mut found);
    look_at_gas(data, &mut found).await;
    tell(&found, &profile, args.json)?;
    match found.findings.iter().filter(|f| f.hinders).count() {
        0 => Ok(()),
        count => Err(format!(
            "nothing can be served yet; what to put right: {count}, marked WRONG above"
        )
        .into()),
    }
}

async fn look_at_upstream(config: &Config, found: &mut Found) {
    let remedy = "start the server, or correct --upstream, --upstream-model or --upstream-key-file";
    let backend = match connect(config).await {
        Ok(Some(backend)) => backend,
        Ok(None) => return,
        Err(error) => return found.note(true, error.to_string(), remedy),
    };
    let (facts, info) = (backend.facts().clone(), backend.info().clone());
    if !info.context_known {
        found.note(
            false,
            "the server does not say how long its model's context is",
            "set `context` in [upstream]; 4096 tokens are offered meanwhile",
        );
    }
    if found.slots > info.concurrency {
        found.note(
            false,
            format!(
                "{} slots, but the server takes {} requests at once",
                found.slots, info.concurrency
            ),
            "start the server with more, or set `slots` to fewer; calls beyond it wait",
        );
        found.slots = info.concurrency;
    }
    match backend.probe(MEASURED_TOKENS).await {
        Ok(probe) => {
            let speed = Speed::new(probe.first_token, probe.output_units, probe.rest);
            // One more is the end token, which brings no text.
            if probe.output_told > probe.output_units + 1 {
                found.note(
                    false,
                    format!("the server counts {} tokens where {} can be seen in its stream", probe.output_told, probe.output_units),
                    "the smaller number is billed; let the server send one event for each token",
                );
            }
            found.speed = Some(speed);
        }
        Err(fault) => found.note(
            true,
            format!("a test answer failed: {fault}"),
            "only streams that follow OpenAI's protocol to the end can be paid for; update the server or put another before it",
        ),
    }
    (found.model, found.upstream) = (Some(facts), Some(info));
}

fn look_at_engine(
    data: &Path,
    config: &Config,
    model: Option<&Path>,
    found: &mut Found,
) -> Outcome {
    let named = model.map(|model| ModelFile::named(data, model));
    let model = match named.transpose() {
        Ok(model) => model,
        Err(error) => {
            found.note(true, error.to_string(), "name a model that is there");
            return Ok(());
        }
    };
    let trust_root = model.as_ref().is_some_and(|model| model.trusted);
    let templates = apart::templates()?;
    if let Err(error) = apart::grammars() {
        let remedy = "let this program start itself, with 384 MiB for what it starts";
        found.note(true, error.to_string(), remedy);
    }
    let options = |name: Option<&str>| ExactOptions {
        name: name.map(str::to_owned),
        slots: found.slots,
        context_max: config.engine.context_max(),
        memory_limit: config.engine.memory_limit(),
        threads: 0,
        trust_root,
        templates: templates.clone(),
        grammars: Grammars::Trusted,
    };
    let opened = match model {
        Some(model) => ExactBackend::open(model.path, &options(None)),
        None => {
            // A name that nobody can foresee, and never through a link: the folder is everybody's.
            let name = format!("stoa-doctor-{}.gguf", hex::encode(random()?));
            let file = std::env::temp_dir().join(name);
            std::fs::File::create_new(&file)?.write_all(DEFAULT_MODEL)?;
            let opened = ExactBackend::open(&file, &options(Some(DEFAULT_MODEL_NAME)));
            let _ = std::fs::remove_file(&file);
            opened
        }
    };
    let backend = match opened {
        Ok(backend) => backend,
        Err(error) => {
            found.note(
                true,
                error.to_string(),
                "choose another model, change [engine], or serve through --upstream",
            );
            return Ok(());
        }
    };
    match measure(&backend) {
        Ok(speed) => found.speed = Some(speed),
        Err(error) => found.note(
            true,
            format!("a test answer failed: {error}"),
            "choose another model",
        ),
    }
    if !found.hardware.accelerators.is_empty() {
        found.note(
            false,
            "the engine of this program does not use the accelerators",
            "serve a model that does through --upstream",
        );
    }
    found.model = Some(backend.facts().clone());
    Ok(())
}

fn measure(backend: &dyn Backend) -> Result<Speed, String> {
    let work = Work {
        prompt: Prompt::Chat {
            messages: r#"[{"role":"user","content":"Hello"}]"#.to_owned(),
            tools: "[]".to_owned(),
            arguments: String::new(),
        },
        sampling: SamplingParameters {
            temperature: Q16(0),
            min_p: Q16(0),
            seed: 0,
            max_output_tokens: MEASURED_TOKENS,
            stop: Vec::new(),
            ..SamplingParameters::default()
        },
        answer: AnswerShape::Any,
    };
    let start = Instant::now();
    let prepared = backend
        .prepare(&work)
        .map_err(|reason| format!("{reason:?}"))?;
    let (mut first, mut tokens) = (None, 0);
    let mut emit = |piece: Piece| {
        first.get_or_insert_with(Instant::now);
        tokens += piece.tokens.len() as u64;
        ControlFlow::Continue(())
    };
    let made = backend.run(&prepared, &CancelFlag::new(), &mut emit);
    made.map_err(|error| error.to_string())?;
    let first = first.ok_or("it is empty")?;
    Ok(Speed::new(first - start, tokens, first.elapsed()))
}

/// Whether the providers of a folder that joined a network and have stake there can pay for an answer to a claim. Anywhere else there is no account to look at.
async fn look_at_gas(data: &Path, found: &mut Found) {
    let Ok(file) = JoinFile::load(data) else {
        return;
    };
    for name in providers(data).unwrap_or_default() {
        match gas_of(data, &file, &name).await {
            Ok(Some((account, answers))) if answers < ANSWERS_LEAST => found.note(
                false,
                format!("{account}, the account of {name}, has gas for {answers} answers to claims of non-delivery"),
                "send native coin of the chain to it: who does not answer a claim is slashed",
            ),
            Ok(_) => {}
            Err(error) => found.note(
                false,
                format!("whether the account of {name} has gas for an answer to a claim of non-delivery is not known: {error}"),
                "look again when the network's chain can be reached",
            ),
        }
    }
}

/// Answers that a provider can pay for; `None` where gas costs nothing, or nobody can claim anything of it.
async fn gas_of(data: &Path, file: &JoinFile, name: &str) -> Outcome<Option<(Address, u64)>> {
    let account = SecretKey::from_bytes(read_secret(data, name)?)?.address();
    let chain = Rpc::new(&file.rpc)?;
    let view = View::new(chain.clone(), file.contracts);
    if !is_at_stake(&view.stake(StakeRole::Provider, account).await?) {
        return Ok(None);
    }
    let answers = answers_paid(&chain, account).await?;
    Ok(answers.map(|answers| (account, answers)))
}

/// What the settings make of it.
fn judge(config: &Config, profile: &NetworkProfile, found: &mut Found) {
    let most = profile.limits.price_max;
    if found.prices.0 > most || found.prices.1 > most {
        found.note(
            true,
            format!("a price is above the network's highest, {most} per 10^6 tokens"),
            "lower it in [[providers]]",
        );
    }
    let claimed = u64::from(config.provider.claimed_tps);
    let Some(speed) = found.speed else { return };
    let all_slots = (speed.tokens_per_hour() / 3600).saturating_mul(u64::from(found.slots));
    if all_slots < claimed {
        found.note(
            false,
            format!("{claimed} tokens per second are claimed, {all_slots} are what {} slots at the speed of one could do", found.slots),
            "lower `claimed_tps`: the stake is for it",
        );
    }
}

/// What one slot earns in an hour in which it is never idle, before and after the network's shares. Prompts are left out.
fn hour(found: &Found, profile: &NetworkProfile) -> Option<(TokenAmount, TokenAmount)> {
    let usage = Usage {
        input_units: 0,
        output_units: found.speed?.tokens_per_hour(),
        input_price: found.prices.0,
        output_price: found.prices.1,
    };
    let gross = reserve(&usage).ok()?;
    let net = split(gross, &FeeSchedule::from(&profile.fees))
        .ok()?
        .provider;
    Some((gross, net))
}

fn tell(found: &Found, profile: &NetworkProfile, as_json: bool) -> std::io::Result<()> {
    let hour = hour(found, profile);
    let upstream = found.upstream.as_ref();
    if as_json {
        let model = found.model.as_ref().map(|m| {
            json!({"name": m.model, "tier": m.tier, "context": m.context, "format": m.quantization, "root": m.model_root})
        });
        let upstream = upstream.map(|u| {
            json!({"url": u.url, "server": u.kind.name(), "version": u.version, "model": u.model, "requests_at_once": u.concurrency,
                "conforms": found.speed.is_some()})
        });
        let speed = found.speed.map(|s| {
            json!({"first_token_ms": s.first_token_ms, "tokens": s.tokens, "rest_us": s.rest_us, "tokens_per_hour": s.tokens_per_hour()})
        });
        return say(json!({
            "hardware": found.hardware, "memory_free": found.memory_free, "model": model, "upstream": upstream, "speed": speed,
            "slots": found.slots, "input_price": found.prices.0, "output_price": found.prices.1,
            "slot_hour": hour.map(|(gross, net)| json!({"gross": gross, "net": net})), "findings": found.findings,
        }));
    }
    let hardware = &found.hardware;
    let mut lines = vec![format!(
        "processor    {}, {} cores",
        hardware.cpu, hardware.cores
    )];
    let free = found
        .memory_free
        .map_or(String::new(), |bytes| format!(", {} MiB free", bytes >> 20));
    lines.push(format!("memory       {} MiB{free}", hardware.memory_mib));
    for card in &hardware.accelerators {
        lines.push(format!(
            "accelerator  {}, {} MiB",
            card.name, card.memory_mib
        ));
    }
    if let Some(u) = upstream {
        let (kind, version) = (
            u.kind.name(),
            u.version.as_deref().unwrap_or("of unknown version"),
        );
        lines.push(format!(
            "upstream     {kind} {version} at {}, {} requests at once",
            u.url, u.concurrency
        ));
    }
    if let Some(m) = &found.model {
        lines.push(format!(
            "model        {} ({}), context {}, tier {}",
            m.model, m.quantization, m.context, m.tier
        ));
    }
    if let Some(s) = found.speed {
        let per_second = s.tokens_per_hour() / 3600;
        lines.push(format!(
            "speed        first token after {} ms, then {per_second} tokens/s, one call at a time",
            s.first_token_ms
        ));
    }
    let (input, output) = found.prices;
    lines.push(format!(
        "price        {input} per 10^6 input tokens, {output} per 10^6 output tokens"
    ));
    lines.push(format!("slots        {}", found.slots));
    if let Some((gross, net)) = hour {
        lines.push(format!("earns        {net} an hour for a slot that is never idle ({gross} before the network's shares; output only)"));
    }
    for finding in &found.findings {
        let mark = if finding.hinders { "WRONG" } else { "note " };
        lines.push(format!(
            "{mark}        {}\n             -> {}",
            finding.what, finding.remedy
        ));
    }
    if found.findings.is_empty() {
        lines.push("nothing is wrong".to_owned());
    }
    say(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataDir;
    use stoa_chain::Contracts;

    fn found(speed: Option<Speed>) -> Found {
        Found {
            hardware: Hardware::default(),
            memory_free: None,
            model: None,
            upstream: None,
            speed,
            slots: 2,
            prices: (
                Price::per_million(TokenAmount::from_units(100_000)),
                Price::per_million(TokenAmount::from_units(400_000)),
            ),
            findings: Vec::new(),
        }
    }

    fn settings() -> (Config, NetworkProfile) {
        let config = Config::load(None).expect("valid");
        let profile = config.asked_profile(&Rhythm::default()).expect("built in");
        (config, profile)
    }

    #[test]
    fn an_hour_is_what_the_measured_speed_brings_at_the_price_less_the_shares() {
        let speed = Speed::new(Duration::from_millis(7), 101, Duration::from_secs(1));
        assert_eq!(speed.tokens_per_hour(), 360_000);
        let (_, profile) = settings();
        let (gross, net) = hour(&found(Some(speed)), &profile).expect("measured");
        // 0.36 of a million tokens at 400,000 units for a million; 3 % are the network's.
        assert_eq!((gross.units(), net.units()), (144_000, 139_680));
        assert_eq!(hour(&found(None), &profile), None);
    }

    #[test]
    fn a_claim_above_the_measure_and_a_price_above_the_limit_are_found() {
        let (config, profile) = settings();
        let fast = Speed::new(Duration::ZERO, 1_001, Duration::from_secs(1));
        let slow = Speed::new(Duration::ZERO, 11, Duration::from_secs(1));
        for (speed, expected) in [(fast, 0), (slow, 1)] {
            let mut found = found(Some(speed));
            judge(&config, &profile, &mut found);
            assert_eq!(found.findings.len(), expected, "{:?}", found.findings);
        }
        let mut dear = found(None);
        dear.prices.1 = Price::per_million(TokenAmount::from_units(u128::MAX));
        judge(&config, &profile, &mut dear);
        assert!(dear.findings[0].hinders, "{:?}", dear.findings);
    }

    #[test]
    fn the_engine_s_speed_is_measured_on_a_real_answer() {
        let (mut config, _) = settings();
        config.engine.context_max = 300;
        let mut found = found(None);
        look_at_engine(Path::new("."), &config, None, &mut found).expect("it opens");
        let speed = found.speed.expect("measured");
        assert!(speed.tokens > 0 && speed.tokens_per_hour() > 0, "{speed:?}");
        let facts = found.model.expect("opened");
        assert_eq!(facts.model, DEFAULT_MODEL_NAME);
        assert_eq!(facts.context, 300, "as it would be served");
        let mut missing = self::found(None);
        look_at_engine(
            Path::new("."),
            &config,
            Some(Path::new("/no/such/model.gguf")),
            &mut missing,
        )
        .expect("told");
        assert!(missing.findings[0].hinders);
    }

    #[tokio::test]
    async fn a_server_that_is_not_there_is_a_finding_with_a_remedy() {
        let (mut config, _) = settings();
        config.upstream.url = "http://127.0.0.1:1".to_owned();
        let mut found = found(None);
        look_at_upstream(&config, &mut found).await;
        let finding = &found.findings[0];
        assert!(
            finding.hinders && finding.what.contains("cannot be reached"),
            "{finding:?}"
        );
        assert!(finding.remedy.contains("--upstream"), "{finding:?}");
    }

    /// Stands in for a chain whose gas costs a little, and on which nobody has any coin, but everybody so much of every stake.
    async fn dear_chain(stake: u8) -> String {
        let answer = move |body: axum::Json<serde_json::Value>| async move {
            let result = match body["method"].as_str() {
                Some("eth_gasPrice") => "0x3b9aca00".to_owned(),
                Some("eth_maxPriorityFeePerGas") => "0x1".to_owned(),
                Some("eth_call") => format!("0x{}", format!("{stake:064x}").repeat(3)),
                _ => "0x0".to_owned(),
            };
            axum::Json(json!({"jsonrpc": "2.0", "id": body["id"], "result": result}))
        };
        let app = axum::Router::new().route("/", axum::routing::post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move { axum::serve(listener, app).await });
        format!("http://{address}")
    }

    #[tokio::test]
    async fn a_provider_that_joined_a_network_without_coin_for_gas_is_warned() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let mut nowhere = found(None);
        look_at_gas(folder.path(), &mut nowhere).await;
        assert!(nowhere.findings.is_empty(), "it joined no network");

        let data = DataDir::open(folder.path()).expect("opens");
        let account = data.account_key("provider-0").expect("a key").address();
        let at = |n: u8| Address([n; 20]);
        let mut file = JoinFile {
            rpc: dear_chain(1).await,
            chain_id: 1,
            contracts: Contracts {
                payment_token: at(1),
                stake_token: at(2),
                provider_registry: at(3),
                stake_registry: at(4),
                vault: at(5),
            },
            profile: NetworkProfile::builtin_text("stoa")
                .expect("built in")
                .to_owned(),
        };
        file.save(&data).expect("written");
        let mut poor = found(None);
        look_at_gas(folder.path(), &mut poor).await;
        let [finding] = &poor.findings[..] else {
            panic!("{:?}", poor.findings);
        };
        assert!(!finding.hinders && finding.what.contains(&account.to_string()));
        assert!(finding.what.contains("gas for 0 answers"), "{finding:?}");

        file.rpc = dear_chain(0).await;
        file.save(&data).expect("written");
        let mut over = found(None);
        look_at_gas(folder.path(), &mut over).await;
        assert!(over.findings.is_empty(), "nothing can be taken from it");

        file.rpc = "http://127.0.0.1:1".to_owned();
        file.save(&data).expect("written");
        let mut away = found(None);
        look_at_gas(folder.path(), &mut away).await;
        assert!(away.findings[0].what.contains("is not known"));
    }
}
