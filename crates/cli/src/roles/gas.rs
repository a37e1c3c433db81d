//! Whether a provider's account can pay the gas of what it may have to send at any time: an answer to a claim of non-delivery. Who cannot
//! answer is slashed.

use metrics::Gauge;
use std::time::Duration;
use stoa_chain::{AccessError, ChainAccess, Fees};
use stoa_types::Address;

/// Gas that an account must be able to pay for an answer: the dearest one uses 224,000, the sender allows a quarter more and 100,000.
const ANSWER_GAS: u128 = 400_000;
/// Answers that it should be able to pay for.
pub const ANSWERS_LEAST: u64 = 5;
/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(60);

/// Answers that an account can pay for at what gas costs now; `None` where gas costs nothing.
pub async fn answers_paid(
    chain: &impl ChainAccess,
    account: Address,
) -> Result<Option<u64>, AccessError> {
    let fees = chain.fees().await?;
    Ok(affordable(chain.balance(account).await?, fees))
}

fn affordable(balance: u128, fees: Fees) -> Option<u64> {
    let one = fees.max_fee.saturating_mul(ANSWER_GAS);
    let count = balance.checked_div(one)?;
    Some(u64::try_from(count).unwrap_or(u64::MAX))
}

/// What is told of a change.
#[derive(Debug, PartialEq, Eq)]
enum Word {
    /// It has too little.
    Short(u64),
    /// It has enough again.
    Enough,
    /// How much it has cannot be read.
    Unknown,
    /// It can be read again.
    Known,
}

/// What was told last.
#[derive(Default)]
struct Told {
    short: bool,
    unknown: bool,
}

impl Told {
    fn see(&mut self, answers: Option<u64>) -> Option<Word> {
        let short = answers.filter(|answers| *answers < ANSWERS_LEAST);
        let was = std::mem::replace(&mut self.short, short.is_some());
        match short {
            Some(answers) if !was => Some(Word::Short(answers)),
            None if was => Some(Word::Enough),
            _ => None,
        }
    }

    /// Whether it could be read.
    fn read(&mut self, known: bool) -> Option<Word> {
        match (std::mem::replace(&mut self.unknown, !known), known) {
            (false, false) => Some(Word::Unknown),
            (true, true) => Some(Word::Known),
            _ => None,
        }
    }
}

/// What the metrics say of an account. Whose account nobody looks after any more lacks nothing.
struct Shown(Gauge);

impl Shown {
    fn of(provider: Address) -> Self {
        let provider = provider.to_string();
        Self(metrics::gauge!("stoa_provider_answers_affordable", "provider" => provider))
    }

    /// Infinite where gas costs nothing.
    fn answers(&self, answers: Option<u64>) {
        self.0
            .set(answers.map_or(f64::INFINITY, |answers| answers as f64));
    }

    /// No number: what was true before must not be believed.
    fn unknown(&self) {
        self.0.set(f64::NAN);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.set(f64::INFINITY);
    }
}

/// Looks after the gas of a provider's account for ever: says once when it becomes too little or cannot be read, and once when that is over.
pub async fn watch<C: ChainAccess>(chain: C, provider: Address) {
    let (mut told, mut ticks) = (Told::default(), tokio::time::interval(LOOK));
    let shown = Shown::of(provider);
    loop {
        ticks.tick().await;
        let read = answers_paid(&chain, provider).await;
        let word = told.read(read.is_ok());
        let answers = match read {
            Ok(answers) => answers,
            Err(error) => {
                shown.unknown();
                if word.is_some() {
                    tracing::warn!(%provider, %error, "whether the provider's account has gas for answers to claims cannot be read; it is tried again");
                }
                continue;
            }
        };
        if word.is_some() {
            tracing::info!(%provider, "what gas the provider's account has can be read again");
        }
        shown.answers(answers);
        match told.see(answers) {
            Some(Word::Short(answers)) => {
                tracing::warn!(%provider, answers, wanted = ANSWERS_LEAST,
                    "the provider's account has hardly any gas: it could not answer claims of non-delivery, and who does not answer is slashed; \
                     send native coin of the chain to it");
            }
            Some(Word::Enough) => tracing::info!(%provider, "the provider's account has gas again"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_pays_for_as_many_answers_as_it_has_coin_for_and_where_gas_is_free_nobody_counts()
    {
        let fees = |max_fee| Fees { max_fee, tip: 0 };
        let one = 400_000 * 30;
        for (balance, answers) in [(0, 0), (one - 1, 0), (one, 1), (7 * one + 3, 7)] {
            assert_eq!(affordable(balance, fees(30)), Some(answers));
        }
        assert_eq!(affordable(0, fees(0)), None);
        assert_eq!(affordable(u128::MAX, fees(1)), Some(u64::MAX));
        assert_eq!(affordable(u128::MAX, fees(u128::MAX)), Some(1));
    }

    #[test]
    fn too_little_gas_is_said_once_and_so_is_enough_of_it() {
        let mut told = Told::default();
        let words = [None, Some(9), Some(4), Some(0), Some(5), Some(4), None].map(|a| told.see(a));
        let expected = [
            None,
            None,
            Some(Word::Short(4)),
            None,
            Some(Word::Enough),
            Some(Word::Short(4)),
            Some(Word::Enough),
        ];
        assert_eq!(words, expected);
    }

    #[test]
    fn gas_that_cannot_be_read_is_said_once_and_so_is_its_end() {
        let mut told = Told::default();
        let words = [true, false, false, true, true].map(|known| told.read(known));
        let expected = [None, Some(Word::Unknown), None, Some(Word::Known), None];
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_not_known_is_no_number_and_who_is_not_looked_after_lacks_nothing() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let shown = Shown::of(Address([1; 20]));
            let says = |value: &str| {
                let page = handle.render();
                assert!(page.contains(&format!("\"}} {value}\n")), "{page}");
            };
            shown.answers(Some(3));
            says("3");
            shown.unknown();
            says("NaN");
            shown.answers(None);
            says("inf");
            shown.answers(Some(3));
            drop(shown);
            says("inf");
        });
    }
}
