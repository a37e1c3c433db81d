//! Settings of `stoa up` and of the roles on their own: one file, embedded as the default and its documentation.

#[cfg(test)]
mod reference;

use crate::process::Failure;
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::Path;
use stoa_api::RateLimit;
use stoa_runtime::{ProviderPolicy, Window};
use stoa_types::{Address, Digest, NetworkProfile, Price, Region, StakeAmount, TokenAmount};

/// The default configuration file.
pub const DEFAULT: &str = include_str!("../../../config/default.toml");

/// Why a configuration was refused. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a configuration.
    #[error("the configuration{} cannot be read: {reason}", of(.file))]
    Malformed {
        /// The file laid over the defaults; empty for the defaults themselves.
        file: String,
        /// Why, in one line.
        reason: String,
    },
    /// The file is not there or not readable.
    #[error("cannot read {file}: {reason}")]
    Unreadable {
        /// Which.
        file: String,
        /// Why.
        reason: std::io::Error,
    },
    /// A number out of its range.
    #[error("{key} is {found}; it must be {allowed}")]
    Range {
        /// Which setting.
        key: &'static str,
        /// What was set.
        found: u64,
        /// What may be set.
        allowed: &'static str,
    },
    /// A provider would take no job at all.
    #[error(
        "provider {provider} of the configuration reserves {reserved_percent} % of {slots} slots and {cores} cores, which leaves no \
         room for a job; reserve less, or leave the provider out"
    )]
    NothingToOffer {
        /// Its place in the list, from 0.
        provider: usize,
        /// What stays the operator's own.
        reserved_percent: u8,
        /// Jobs at once.
        slots: u32,
        /// Cores of this machine.
        cores: u32,
    },
}

fn of(file: &str) -> String {
    if file.is_empty() {
        String::new()
    } else {
        format!(" {file}")
    }
}

/// Providers that `up` starts at most: each has a key, a stake, sockets and threads.
pub const PROVIDERS_MAX: u32 = 100;
/// Plants of one set: what a batch takes without showing.
const PLANTS_MAX: u32 = 20;
/// Seats of validators in the contracts.
const VALIDATORS_MAX: u32 = 64;

/// Most calls or tokens of an account in a minute that can be set: what the headers of answers show must stay readable.
const RATE_MAX: u64 = 1_000_000_000;

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Listeners and composition.
    pub up: Up,
    /// The funded account.
    pub developer: Developer,
    /// The router.
    pub router: Router,
    /// What validators have in common.
    pub validator: Validator,
    /// The planter.
    pub planter: Planter,
    /// What providers have in common.
    pub provider: Provider,
    /// The exact engine of a process.
    pub engine: Engine,
    /// Somebody else's inference server that they serve through.
    pub upstream: Upstream,
    /// Traces.
    pub telemetry: Telemetry,
    /// One entry for each provider.
    pub providers: Vec<ProviderOffer>,
}

/// Listeners and composition.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Up {
    /// Network profile.
    pub profile: String,
    /// API and dashboard.
    pub port: u16,
    /// JSON-RPC.
    pub rpc_port: u16,
    /// Prometheus.
    pub metrics_port: u16,
    /// Number of providers.
    pub providers: u32,
    /// Number of validators.
    pub validators: u32,
    /// Plants of one set; 0 for no planter.
    pub plants: u32,
}

/// The funded account.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Developer {
    /// Deposited at the first start.
    #[serde(deserialize_with = "tokens")]
    pub deposit: TokenAmount,
    /// Allotted to the router.
    #[serde(deserialize_with = "tokens")]
    pub cap: TokenAmount,
    /// Life of the allotment.
    pub allotment_seconds: u64,
    /// Prolonged this long before the end.
    pub renew_before_seconds: u64,
}

/// The router.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Router {
    /// Its stake.
    #[serde(deserialize_with = "stake")]
    pub stake: StakeAmount,
    /// Calls under way at once.
    pub calls_max: u32,
    /// Whether it claims on chain what a provider took and did not deliver, with a deposit in stake tokens from its own account.
    pub claim_undelivered: bool,
    /// Longest wait before a stream's headers leave.
    pub header_hold_ms_max: u64,
    /// Where `stoa router` listens for providers (UDP).
    pub listen: SocketAddr,
    /// Where providers find it, if that is elsewhere.
    pub announce: Vec<SocketAddr>,
    /// Names under which browsers reach the dashboard, besides the address that it listens on.
    #[serde(deserialize_with = "hosts")]
    pub hosts: Vec<String>,
    /// Where `stoa router` serves API and dashboard.
    pub api: SocketAddr,
    /// Where `stoa router` serves metrics.
    pub metrics: SocketAddr,
    /// API keys that are known from the settings, by hash, besides those in its folder.
    pub keys: Vec<ConfiguredKey>,
    /// How fast each account may call.
    pub account_rate: AccountRate,
}

/// How fast each account may call.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountRate {
    /// Calls in a minute, and at once.
    pub requests_per_minute: u32,
    /// Tokens of prompts and answers in a minute, and at once.
    pub tokens_per_minute: u64,
    /// Pages, live pages and checks of receipt files on the dashboard in a minute, and at once.
    pub pages_per_minute: u32,
    /// Requests by API key that pay nothing, in a minute and at once.
    pub reads_per_minute: u32,
}

impl From<AccountRate> for RateLimit {
    fn from(rate: AccountRate) -> Self {
        Self {
            requests_per_minute: rate.requests_per_minute,
            tokens_per_minute: rate.tokens_per_minute,
        }
    }
}

/// An API key of the settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredKey {
    /// Who pays for its calls.
    pub account: Address,
    /// Its hash, as `stoa connect` prints it.
    pub hash: Digest,
}

/// What validators have in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validator {
    /// Stake of each.
    #[serde(deserialize_with = "stake")]
    pub stake: StakeAmount,
    /// Local address from which `stoa validator` dials routers (UDP).
    pub listen: SocketAddr,
    /// Where `stoa validator` serves metrics.
    pub metrics: SocketAddr,
}

/// The planter.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planter {
    /// From one set to the next, at most.
    pub rest_seconds: u64,
    /// Between two purchases of a set, at most.
    pub pause_ms: u64,
    /// File with prompts, one in a line; empty for made-up ones.
    pub prompts: String,
    /// Whether its provider serves nobody else.
    pub alone: bool,
    /// After so many sets another customer and another provider take over; 0 for never.
    pub sets_per_identity: u32,
    /// Plants of one set of `stoa planter`.
    pub set: u32,
    /// Local address from which `stoa planter` dials routers (UDP).
    pub listen: SocketAddr,
    /// Where `stoa planter` serves metrics.
    pub metrics: SocketAddr,
}

/// What providers have in common.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Stake of each.
    #[serde(deserialize_with = "stake")]
    pub stake: StakeAmount,
    /// Jobs at once.
    pub slots: u32,
    /// Share of slots and cores that stays the operator's own.
    pub reserved_percent: u8,
    /// When work is taken; empty = always.
    pub windows: Vec<Window>,
    /// Offset of the windows' clock from UTC.
    pub utc_offset_minutes: i32,
    /// Tokens per second that the stake stands for.
    pub claimed_tps: u32,
    /// Local address from which `stoa provider` dials routers (UDP).
    pub listen: SocketAddr,
    /// Where `stoa provider` serves metrics.
    pub metrics: SocketAddr,
}

/// The exact engine of a process, with all its models.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Memory of all its models, in MiB; 0 for what is free at the start.
    pub memory_mib: u64,
    /// Longest context that is offered, in tokens; 0 for the model's own.
    pub context_max: u32,
    /// Models that always stay in memory, as they are given to `--model`.
    pub pinned: Vec<String>,
}

impl Engine {
    /// Longest context that is offered, in tokens, where it is bounded.
    pub fn context_max(&self) -> Option<u32> {
        (self.context_max > 0).then_some(self.context_max)
    }

    /// Memory of all its models, in bytes, where it is bounded.
    pub fn memory_limit(&self) -> Option<u64> {
        (self.memory_mib > 0).then(|| self.memory_mib.saturating_mul(1 << 20))
    }
}

/// Somebody else's inference server.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Where it is; empty for none.
    pub url: String,
    /// Id of the model there; empty for the only one.
    pub model: String,
    /// File that holds its key; empty for none.
    pub key_file: String,
    /// Context in tokens; 0 for what it says.
    pub context: u32,
    /// Requests at once; 0 for what it says.
    pub concurrency: u32,
    /// Upper bound of the tokens that the template adds to a message.
    pub message_overhead: u32,
    /// Longest wait for the beginning of an answer.
    pub first_event_seconds: u64,
    /// Longest silence within one.
    pub silence_seconds: u64,
}

/// Traces of calls.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// The collector; empty for none.
    pub otlp: String,
    /// Calls of which traces are made, at most.
    pub traces_per_second: u32,
}

/// One provider's place and prices, and where its policy differs from the others'.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderOffer {
    /// Where it stands.
    pub region: Region,
    /// Price of 10^6 input tokens.
    #[serde(deserialize_with = "price")]
    pub input_price: Price,
    /// Price of 10^6 output tokens.
    #[serde(deserialize_with = "price")]
    pub output_price: Price,
    /// In place of the common one.
    pub slots: Option<u32>,
    /// In place of the common one.
    pub reserved_percent: Option<u8>,
    /// In place of the common ones.
    pub windows: Option<Vec<Window>>,
}

/// How fast a devnet goes, where it is not as the profile says.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct Rhythm {
    /// Seconds per batch, for devnets: the challenge window becomes twice that, the smallest claim 1 unit.
    #[arg(long, value_name = "N")]
    pub batch_seconds: Option<u64>,
    /// Life of a ticket in seconds, for devnets: what was not delivered by then can be claimed. 5 at least.
    #[arg(long, value_name = "N")]
    pub ticket_seconds: Option<u64>,
}

impl Rhythm {
    /// Whether anything of it was asked for.
    pub const fn is_named(&self) -> bool {
        self.batch_seconds.is_some() || self.ticket_seconds.is_some()
    }
}

impl Config {
    /// The defaults, with the settings of `file` laid over them.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = file else {
            return Self::layered(DEFAULT, "", "");
        };
        let name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::layered(DEFAULT, &text, &name),
            Err(reason) => Err(ConfigError::Unreadable { file: name, reason }),
        }
    }

    /// The profile that the settings name, in this rhythm.
    pub fn asked_profile(&self, rhythm: &Rhythm) -> Result<NetworkProfile, Failure> {
        let mut profile = NetworkProfile::parse(NetworkProfile::builtin_text(&self.up.profile)?)?;
        if rhythm.is_named() && !profile.devnet {
            let name = profile.name;
            return Err(format!(
                "--batch-seconds and --ticket-seconds are for devnets; profile `{name}` is none"
            )
            .into());
        }
        if let Some(seconds) = rhythm.ticket_seconds {
            // A job that takes longer is lost, and one of no time could not be done at all.
            let most = profile.settlement.ticket_seconds;
            if !(5..=most).contains(&seconds) {
                return Err(format!("--ticket-seconds takes 5 to {most}").into());
            }
            profile.settlement.ticket_seconds = seconds;
        }
        let Some(seconds) = rhythm.batch_seconds else {
            return Ok(profile);
        };
        if !(1..=3600).contains(&seconds) {
            return Err("--batch-seconds takes 1 to 3600".into());
        }
        let settlement = &mut profile.settlement;
        settlement.batch_seconds = seconds;
        settlement.window_seconds = 2 * seconds;
        // A batch and two windows must fit between the end of an allotment and its return.
        settlement.settle_delay_seconds = settlement.settle_delay_seconds.max(6 * seconds);
        settlement.claim_min = TokenAmount::from_units(1);
        // A day to claim, and one to answer, become twenty batches each. A claim is made in the last quarter of its time, which must be some seconds.
        profile.delivery.claim_seconds = (20 * seconds).max(24);
        profile.delivery.answer_seconds = 20 * seconds;
        // A ruling must come while the payout root can still be voided.
        profile.audit = profile.audit.within(2 * seconds);
        Ok(profile)
    }

    /// Tables are laid over tables, key by key; anything else replaces what it stands over, lists as a whole.
    fn layered(base: &str, over: &str, name: &str) -> Result<Self, ConfigError> {
        let malformed = |error: toml::de::Error| {
            let line = error.span().map(|span| {
                let before = over.get(..span.start).unwrap_or_default();
                format!("line {}: ", before.matches('\n').count() + 1)
            });
            ConfigError::Malformed {
                file: name.to_owned(),
                reason: line.unwrap_or_default() + error.message(),
            }
        };
        let mut settings: toml::Table = toml::from_str(base).map_err(malformed)?;
        lay(&mut settings, toml::from_str(over).map_err(malformed)?);
        settings.try_into().map_err(malformed)
    }

    /// Whether a network can be started with these settings on a machine of so many cores.
    pub fn check(&self, cores: u32) -> Result<(), ConfigError> {
        let (providers, day) = (self.up.providers, 24 * 3600);
        range(
            "the number of providers",
            providers.into(),
            (1..=PROVIDERS_MAX).contains(&providers),
            "1 to 100",
        )?;
        range(
            "the number of validators",
            self.up.validators.into(),
            self.up.validators <= VALIDATORS_MAX,
            "0 to 64",
        )?;
        range(
            "the number of plants",
            self.up.plants.into(),
            self.up.plants <= PLANTS_MAX,
            "0 to 20",
        )?;
        range(
            "planter.rest_seconds",
            self.planter.rest_seconds,
            (1..=day).contains(&self.planter.rest_seconds),
            "1 to 86400",
        )?;
        range(
            "planter.set",
            self.planter.set.into(),
            (1..=20).contains(&self.planter.set),
            "1 to 20",
        )?;
        range(
            "the number of [[providers]] to choose from",
            self.providers.len() as u64,
            !self.providers.is_empty(),
            "1 or more",
        )?;
        self.developer.check()?;
        self.router.check()?;
        let upstream = &self.upstream;
        range(
            "upstream.message_overhead",
            upstream.message_overhead.into(),
            upstream.message_overhead <= 1024,
            "0 to 1024",
        )?;
        for (key, seconds) in [
            ("upstream.first_event_seconds", upstream.first_event_seconds),
            ("upstream.silence_seconds", upstream.silence_seconds),
        ] {
            range(key, seconds, (1..=3600).contains(&seconds), "1 to 3600")?;
        }
        (0..self.providers.len()).try_for_each(|n| self.check_policy(n, cores))
    }

    /// Whether provider `n` of the list can take any job.
    fn check_policy(&self, n: usize, cores: u32) -> Result<(), ConfigError> {
        let policy = self.policy(n);
        range(
            "reserved_percent",
            policy.reserved_percent.into(),
            policy.check().is_ok(),
            "0 to 100",
        )?;
        range(
            "slots",
            policy.slots.into(),
            (1..=1024).contains(&policy.slots),
            "1 to 1024",
        )?;
        if market_slots(&policy, cores) == 0 {
            return Err(ConfigError::NothingToOffer {
                provider: n,
                reserved_percent: policy.reserved_percent,
                slots: policy.slots,
                cores,
            });
        }
        Ok(())
    }

    /// Entry of the list that provider `n` is started from: more providers than entries repeat the list.
    pub fn offer(&self, n: u32) -> usize {
        n as usize % self.providers.len().max(1)
    }

    /// What provider `n` of the list lets the market have.
    pub fn policy(&self, n: usize) -> ProviderPolicy {
        let (common, own) = (&self.provider, self.providers.get(n));
        let own_windows = own.and_then(|own| own.windows.clone());
        ProviderPolicy {
            slots: own.and_then(|own| own.slots).unwrap_or(common.slots),
            reserved_percent: own
                .and_then(|own| own.reserved_percent)
                .unwrap_or(common.reserved_percent),
            windows: own_windows.unwrap_or_else(|| common.windows.clone()),
        }
    }
}

impl Developer {
    /// Whether the vault takes an allotment of this life: also for `stoa connect`, which reads nothing else.
    pub fn check(&self) -> Result<(), ConfigError> {
        let (life, day) = (self.allotment_seconds, 24 * 3600);
        range(
            "developer.allotment_seconds",
            life,
            (600..30 * day).contains(&life),
            "600 to 2591999, the vault takes 30 days at most",
        )?;
        range(
            "developer.renew_before_seconds",
            self.renew_before_seconds,
            self.renew_before_seconds < life,
            "less than developer.allotment_seconds",
        )
    }
}

impl Router {
    /// Whether anybody could call a router with these settings: also for `stoa router`, which reads nothing else.
    pub fn check(&self) -> Result<(), ConfigError> {
        range(
            "router.calls_max",
            self.calls_max.into(),
            self.calls_max > 0,
            "1 or more",
        )?;
        let rate = &self.account_rate;
        for (key, found) in [
            (
                "router.account_rate.requests_per_minute",
                rate.requests_per_minute.into(),
            ),
            (
                "router.account_rate.tokens_per_minute",
                rate.tokens_per_minute,
            ),
            (
                "router.account_rate.pages_per_minute",
                rate.pages_per_minute.into(),
            ),
            (
                "router.account_rate.reads_per_minute",
                rate.reads_per_minute.into(),
            ),
        ] {
            let allowed = (1..=RATE_MAX).contains(&found);
            range(key, found, allowed, "1 to 1000000000")?;
        }
        Ok(())
    }
}

fn range(
    key: &'static str,
    found: u64,
    ok: bool,
    allowed: &'static str,
) -> Result<(), ConfigError> {
    if ok {
        return Ok(());
    }
    Err(ConfigError::Range {
        key,
        found,
        allowed,
    })
}

/// Jobs that a provider of this policy takes at once. Who reserves nothing may have more slots than cores; who reserves something
/// must find it free, so that every job then has a core of its own.
pub fn market_slots(policy: &ProviderPolicy, cores: u32) -> u32 {
    if policy.reserved_percent == 0 {
        policy.slots
    } else {
        policy.market_slots(cores)
    }
}

fn lay(settings: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (settings.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay(below, above),
            (_, value) => drop(settings.insert(key, value)),
        }
    }
}

fn tokens<'de, D: serde::Deserializer<'de>>(d: D) -> Result<TokenAmount, D::Error> {
    TokenAmount::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn stake<'de, D: serde::Deserializer<'de>>(d: D) -> Result<StakeAmount, D::Error> {
    StakeAmount::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

/// As browsers write them: lower case, the port where it is not the scheme's own.
fn hosts<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    let hosts = Vec::<String>::deserialize(d)?;
    let known = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._:[]".contains(&b);
    match hosts
        .iter()
        .find(|host| host.is_empty() || !host.bytes().all(known))
    {
        Some(host) => Err(serde::de::Error::custom(format!(
            "`{host}` is no host as an address bar shows it; write stoa.example or stoa.example:8443, in lower case, without https://"
        ))),
        None => Ok(hosts),
    }
}

fn price<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Price, D::Error> {
    tokens(d).map(Price::per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(text: &str) -> Result<Config, ConfigError> {
        Config::layered(DEFAULT, text, "my.toml")
    }

    #[test]
    fn the_default_file_loads_and_an_unknown_key_is_refused() {
        let config = Config::load(None).expect("valid");
        assert_eq!(config.providers.len(), 3);
        config.check(1).expect("starts on the smallest machine");
        let unknown = over("[router]\ncalls_mx = 1").expect_err("unknown key");
        assert!(unknown.to_string().contains("my.toml"), "{unknown}");
        assert!(unknown.to_string().contains("calls_mx"), "{unknown}");
        let broken = over("[up]\nport = = 1").expect_err("no TOML").to_string();
        assert!(
            broken.contains("line 2: ") && !broken.contains('\n'),
            "{broken}"
        );
    }

    #[test]
    fn the_rate_of_an_account_is_a_setting_and_no_rate_at_all_is_refused() {
        let set = over("[router.account_rate]\nrequests_per_minute = 7").expect("valid");
        let rate = RateLimit::from(set.router.account_rate);
        assert_eq!(rate.requests_per_minute, 7);
        assert!(rate.tokens_per_minute > 0, "the rest is as it was");
        for wrong in [
            "requests_per_minute = 0",
            "tokens_per_minute = 0",
            "pages_per_minute = 0",
            "reads_per_minute = 0",
        ] {
            let config = over(&format!("[router.account_rate]\n{wrong}")).expect("reads");
            let refused = config.check(1).expect_err("nobody could call").to_string();
            assert!(refused.contains("router.account_rate."), "{refused}");
        }
    }

    #[test]
    fn a_host_is_taken_as_an_address_bar_shows_it_and_not_otherwise() {
        let set = over("[router]\nhosts = ['stoa.example', '[::1]:8443']").expect("valid");
        assert_eq!(set.router.hosts, ["stoa.example", "[::1]:8443"]);
        for wrong in ["https://stoa.example", "Stoa.example", "", "a b", "a/b"] {
            let refused = over(&format!("[router]\nhosts = ['{wrong}']")).expect_err(wrong);
            assert!(refused.to_string().contains("address bar"), "{refused}");
        }
    }

    #[test]
    fn a_file_changes_what_it_names_and_nothing_else() {
        let changed = over("[up]\nrpc_port = 9999").expect("valid");
        let default = Config::load(None).expect("valid");
        assert_eq!(changed.up.rpc_port, 9999);
        assert_eq!(changed.up.port, default.up.port);
        assert_eq!(changed.providers.len(), 3);
        let path = Path::new("/no/such/file.toml");
        let missing = Config::load(Some(path)).expect_err("there is none");
        assert!(missing.to_string().contains("/no/such/file.toml"));
    }

    #[test]
    fn a_provider_has_the_common_policy_but_for_what_it_names_itself() {
        let config = over(
            r#"
            [provider]
            slots = 8
            reserved_percent = 25
            windows = ["mon-fri 22:00-06:00"]

            [[providers]]
            region = "XA"
            input_price = "1"
            output_price = "1"

            [[providers]]
            region = "XB"
            input_price = "1"
            output_price = "1"
            slots = 2
            reserved_percent = 0
            windows = []
            "#,
        )
        .expect("valid");
        let (first, second) = (config.policy(0), config.policy(1));
        assert_eq!((first.slots, first.reserved_percent), (8, 25));
        assert_eq!(first.windows[0].to_string(), "mon-fri 22:00-06:00");
        assert_eq!((second.slots, second.reserved_percent), (2, 0));
        assert!(second.windows.is_empty());
        assert_eq!(market_slots(&first, 64), 6);
        assert_eq!(
            market_slots(&first, 4),
            3,
            "the reserve is of the cores too"
        );
        assert_eq!(market_slots(&second, 1), 2, "nothing needs to stay free");
        config.check(4).expect("both take jobs");
    }

    #[test]
    fn settings_that_no_network_can_be_started_with_are_refused_by_name() {
        for (text, named) in [
            ("[up]\nproviders = 0", "number of providers"),
            ("[up]\nproviders = 101", "1 to 100"),
            ("[up]\nvalidators = 65", "0 to 64"),
            ("[up]\nplants = 21", "0 to 20"),
            ("[planter]\nrest_seconds = 0", "1 to 86400"),
            ("[planter]\nset = 21", "1 to 20"),
            ("providers = []", "[[providers]]"),
            ("[provider]\nreserved_percent = 101", "reserved_percent"),
            ("[provider]\nreserved_percent = 100", "no room for a job"),
            ("[provider]\nslots = 0", "slots"),
            ("[router]\ncalls_max = 0", "router.calls_max"),
            ("[developer]\nallotment_seconds = 2592000", "30 days"),
            ("[developer]\nrenew_before_seconds = 99999999", "less than"),
            ("[upstream]\nsilence_seconds = 0", "silence_seconds"),
            ("[upstream]\nmessage_overhead = 1025", "message_overhead"),
        ] {
            let error = over(text).expect("reads").check(8).expect_err(text);
            assert!(error.to_string().contains(named), "{text}: {error}");
        }
        let error = over("[provider]\nwindows = [\"late\"]").expect_err("no window");
        assert!(error.to_string().contains("mon-fri 22:00-06:00"), "{error}");
    }
}
