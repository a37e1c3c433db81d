//! Settings of `stoa up`: one file, embedded as the default and its documentation.

use serde::Deserialize;
use stoa_types::{Price, Region, StakeAmount, TokenAmount};

/// The default configuration file.
pub const DEFAULT: &str = include_str!("../../../config/default.toml");

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[error("the configuration cannot be read: {0}")]
pub struct ConfigError(#[from] toml::de::Error);

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
    /// What providers have in common.
    pub provider: Provider,
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
    /// Longest wait before a stream's headers leave.
    pub header_hold_ms_max: u64,
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
    /// Tokens per second that the stake stands for.
    pub claimed_tps: u32,
}

/// One provider's place and prices.
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
}

impl Config {
    /// Reads a configuration.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        Ok(toml::from_str(text)?)
    }
}

fn tokens<'de, D: serde::Deserializer<'de>>(d: D) -> Result<TokenAmount, D::Error> {
    TokenAmount::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn stake<'de, D: serde::Deserializer<'de>>(d: D) -> Result<StakeAmount, D::Error> {
    StakeAmount::parse(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

fn price<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Price, D::Error> {
    tokens(d).map(Price::per_million)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_loads_and_an_unknown_key_is_refused() {
        let config = Config::parse(DEFAULT).expect("valid");
        assert_eq!(config.providers.len(), 3);
        assert!(Config::parse(&DEFAULT.replace("calls_max", "calls_mx")).is_err());
    }
}
