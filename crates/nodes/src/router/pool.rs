//! Connected providers and how they did: the live index of IN-75, from which the market's candidates are made.

use crate::client::ClientRequest;
use crate::message::{Hello, ModelOffer};
use crate::work::Prompt;
use std::collections::BTreeMap;
use stoa_market::track::{Latency, Outcome, Reliability, Reputation};
use stoa_market::{Candidate, Constraints};
use stoa_types::{Address, Millis, Price, Tier, Timestamp, TokenAmount};

/// How a provider did, as this router saw it.
#[derive(Debug, Clone, Default)]
pub struct Track {
    /// Outcomes of its latest jobs.
    pub reliability: Reliability,
    /// Time to first token.
    pub latency: Latency,
    /// Verification and delivery outcomes.
    pub reputation: Reputation,
    /// Jobs delivered since this router started.
    pub delivered: u64,
}

/// One provider as the router sees it.
#[derive(Debug, Clone)]
pub struct Standing {
    /// What it said when it connected last.
    pub hello: Hello,
    /// Whether it is connected.
    pub online: bool,
    /// Whether it declines new jobs.
    pub draining: bool,
    /// Slots it reports or that are left by our own count.
    pub free_slots: u32,
    /// Jobs of ours that it works on.
    pub ordered: u32,
    /// Slots kept for calls that were admitted and are not dispatched yet.
    pub claimed: u32,
    /// How it did.
    pub track: Track,
}

impl Standing {
    /// Slots that a new call could have. A report may have been made before our last order reached the provider: what we ordered
    /// ourselves counts in any case.
    pub fn open_slots(&self) -> u32 {
        let ours = self.hello.slots.saturating_sub(self.ordered);
        self.free_slots.min(ours).saturating_sub(self.claimed)
    }
}

/// All providers this router has met.
#[derive(Debug, Clone, Default)]
pub struct Stock {
    providers: BTreeMap<Address, Standing>,
    /// Reputations that verdicts wrote, also of providers that this router has not met.
    rated: BTreeMap<Address, u32>,
    /// What staked providers offer on chain, also those that this router has not met since it started.
    published: BTreeMap<Address, Vec<(String, Tier)>>,
    /// A slot may have become free since this was asked last.
    freed: bool,
}

impl Stock {
    /// All of them, by account.
    pub fn iter(&self) -> impl Iterator<Item = (&Address, &Standing)> {
        self.providers.iter()
    }

    /// One of them.
    pub fn get(&self, provider: Address) -> Option<&Standing> {
        self.providers.get(&provider)
    }

    /// The reputation of a provider in millionths: the lower one of what this router saw and what verdicts wrote.
    pub fn reputation_ppm(&self, provider: Address) -> u32 {
        let written = self.rated.get(&provider).copied().unwrap_or(u32::MAX);
        let seen = self.providers.get(&provider);
        let seen = seen.map_or(u32::MAX, |s| s.track.reputation.ppm());
        let unknown = stoa_market::track::Reputation::default().ppm();
        if seen.min(written) == u32::MAX {
            unknown
        } else {
            seen.min(written)
        }
    }

    pub(super) fn rate(&mut self, provider: Address, reputation_ppm: u32) {
        self.rated.insert(provider, reputation_ppm);
    }

    pub(super) fn publish(&mut self, provider: Address, models: Vec<(String, Tier)>) {
        if models.is_empty() {
            self.published.remove(&provider);
        } else {
            self.published.insert(provider, models);
        }
    }

    fn is_convicted(&self, provider: Address) -> bool {
        self.rated.get(&provider) == Some(&0)
    }

    /// Model names with the offers that are online now.
    pub fn models(&self) -> BTreeMap<&str, Vec<(Address, &ModelOffer)>> {
        let mut models: BTreeMap<&str, Vec<_>> = BTreeMap::new();
        for (account, standing) in self.providers.iter().filter(|(_, s)| s.online) {
            for offer in &standing.hello.models {
                models
                    .entry(&offer.model)
                    .or_default()
                    .push((*account, offer));
            }
        }
        models
    }

    /// Tiers in which a model was offered by providers that this router has met.
    fn met_tiers(&self, model: &str) -> impl Iterator<Item = Tier> {
        let offers = self.providers.values().flat_map(|s| &s.hello.models);
        let offers = offers.filter(move |offer| offer.model == model);
        offers.map(|offer| offer.tier)
    }

    /// Tiers in which a model is on chain by staked providers.
    fn published_tiers(&self, model: &str) -> impl Iterator<Item = Tier> {
        let offers = self.published.values().flatten();
        let offers = offers.filter(move |(name, _)| name == model);
        offers.map(|(_, tier)| *tier)
    }

    /// Whether anyone offers the model, now or at another time.
    pub fn knows(&self, model: &str) -> bool {
        let mut tiers = self.met_tiers(model).chain(self.published_tiers(model));
        tiers.next().is_some()
    }

    /// The tier that a request gets which names none: `exact` or, where nobody ever offered the model so high, the highest that was.
    /// So a model on somebody's float server is asked for by its name alone, and a provider that is away for a moment does not lower
    /// what a name means. What is only published counts while nobody was met: a stranger's word on chain must not lift what others serve.
    pub(super) fn default_tier(&self, model: &str) -> Tier {
        let highest = self.met_tiers(model).max();
        let highest = highest.or_else(|| self.published_tiers(model).max());
        highest.unwrap_or(Tier::Exact).min(Tier::Exact)
    }

    /// The provider's offer of a model.
    pub fn offer(&self, provider: Address, model: &str) -> Option<&ModelOffer> {
        self.providers
            .get(&provider)?
            .hello
            .models
            .iter()
            .find(|offer| offer.model == model)
    }

    /// Takes a provider in. Offers above the network's price bound are left out.
    pub(super) fn up(&mut self, mut hello: Hello, price_max: Price) {
        self.freed = true;
        hello
            .models
            .retain(|offer| offer.input_price <= price_max && offer.output_price <= price_max);
        let free_slots = hello.slots;
        match self.providers.get_mut(&hello.account) {
            Some(standing) => {
                standing.online = true;
                standing.draining = false;
                standing.free_slots = free_slots;
                standing.hello = hello;
            }
            None => {
                let standing = Standing {
                    hello,
                    online: true,
                    draining: false,
                    free_slots,
                    ordered: 0,
                    claimed: 0,
                    track: Track::default(),
                };
                self.providers.insert(standing.hello.account, standing);
            }
        }
    }

    pub(super) fn down(&mut self, provider: Address) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.online = false;
            standing.free_slots = 0;
        }
    }

    pub(super) fn status(&mut self, provider: Address, free_slots: u32, draining: bool) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.free_slots = free_slots.min(standing.hello.slots);
            standing.draining = draining;
            self.freed = true;
        }
    }

    pub(super) fn take_slot(&mut self, provider: Address) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.free_slots = standing.free_slots.saturating_sub(1);
            standing.ordered = standing.ordered.saturating_add(1);
        }
    }

    pub(super) fn give_slot(&mut self, provider: Address) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.ordered = standing.ordered.saturating_sub(1);
            if standing.online {
                let free = standing.free_slots.saturating_add(1);
                standing.free_slots = free.min(standing.hello.slots);
                self.freed = true;
            }
        }
    }

    /// Keeps a slot for a call whose reservation is being written.
    pub(super) fn claim(&mut self, provider: Address) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.claimed = standing.claimed.saturating_add(1);
        }
    }

    /// The call uses its slot now, or needs none any more.
    pub(super) fn unclaim(&mut self, provider: Address) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.claimed = standing.claimed.saturating_sub(1);
            self.freed = true;
        }
    }

    /// Whether a slot may have become free since the last time.
    pub(super) fn take_freed(&mut self) -> bool {
        std::mem::take(&mut self.freed)
    }

    /// Slots, free or not, of all who serve the model.
    pub(super) fn slots(&self, model: &str) -> u32 {
        let serves = |s: &&Standing| s.online && s.hello.models.iter().any(|o| o.model == model);
        self.providers
            .values()
            .filter(serves)
            .fold(0, |sum, s| sum.saturating_add(s.hello.slots))
    }

    /// Jobs that these providers run at once.
    pub(super) fn slots_of(&self, providers: &[Address]) -> u32 {
        let slots = |provider: &Address| self.get(*provider).map_or(0, |s| s.hello.slots);
        providers
            .iter()
            .map(slots)
            .fold(0, |sum: u32, slots| sum.saturating_add(slots))
    }

    pub(super) fn can_take(&self, provider: Address) -> bool {
        let able = |s: &Standing| s.online && !s.draining && s.open_slots() > 0;
        self.providers.get(&provider).is_some_and(able) && !self.is_convicted(provider)
    }

    /// Whether nothing but a free slot is missing.
    pub(super) fn is_full(&self, provider: Address) -> bool {
        self.providers
            .get(&provider)
            .is_some_and(|s| s.online && !s.draining && s.open_slots() == 0)
    }

    pub(super) fn first_token(&mut self, provider: Address, after: Millis) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.track.latency.observe(after.0);
        }
    }

    pub(super) fn delivered(&mut self, provider: Address, now: Timestamp) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.track.reliability.observe(now, true);
            standing.track.reputation.observe(Outcome::Good, false);
            standing.track.delivered += 1;
        }
    }

    /// A job failed there. Reputation falls only for what an honest machine does not do (`dishonest`): a lost connection fails many
    /// jobs at once and proves nothing.
    pub(super) fn failed(&mut self, provider: Address, now: Timestamp, dishonest: bool) {
        if let Some(standing) = self.providers.get_mut(&provider) {
            standing.track.reliability.observe(now, false);
            if dishonest {
                standing.track.reputation.observe(Outcome::Bad, false);
            }
        }
    }

    /// Offers of a model that are online.
    pub(super) fn offers(&self, model: &str) -> Vec<&ModelOffer> {
        self.providers
            .values()
            .filter(|s| s.online)
            .filter_map(|s| s.hello.models.iter().find(|offer| offer.model == model))
            .collect()
    }

    /// The market's view of everyone who serves the model.
    pub(super) fn candidates(
        &self,
        model: &str,
        prompt: &Prompt,
        ttft_start_ms: u64,
        now: Timestamp,
    ) -> Vec<Candidate> {
        let offered = |(account, standing): (&Address, &Standing)| {
            let offer = standing
                .hello
                .models
                .iter()
                .find(|offer| offer.model == model)?;
            Some(Candidate {
                reputation_ppm: self.reputation_ppm(*account),
                output_price: offer.output_price_for(prompt),
                ..candidate(*account, standing, offer, ttft_start_ms, now)
            })
        };
        self.providers.iter().filter_map(offered).collect()
    }
}

fn candidate(
    provider: Address,
    standing: &Standing,
    offer: &ModelOffer,
    ttft_start_ms: u64,
    now: Timestamp,
) -> Candidate {
    let (ok, total) = standing.track.reliability.counts(now);
    Candidate {
        provider,
        input_price: offer.input_price,
        output_price: offer.output_price,
        ttft_ms: standing
            .track
            .latency
            .predicted_ms()
            .unwrap_or(ttft_start_ms),
        ok,
        total,
        reputation_ppm: standing.track.reputation.ppm(),
        region: standing.hello.region,
        tier: offer.tier,
        free_slots: standing.open_slots(),
        // Providers load their models before they say hello.
        warm: true,
        online: standing.online && !standing.draining,
        // Nothing would count as no word about it.
        context: u64::from(offer.context.max(1)),
    }
}

/// What each of so many choices may have of an amount.
pub(super) fn part(amount: TokenAmount, choices: u32) -> TokenAmount {
    TokenAmount::from_units(amount.units() / u128::from(choices.max(1)))
}

/// The request's constraints as the market's.
pub(super) fn constraints(request: &ClientRequest, default_tier: Tier) -> Constraints {
    let c = &request.constraints;
    Constraints {
        tier_min: Some(c.tier.unwrap_or(default_tier)),
        input_price_max: c.input_price_max,
        output_price_max: c.output_price_max,
        // Each choice may cost its part.
        cost_max: c.cost_max.map(|most| part(most, request.choices)),
        whole: request.prompt.vectors().is_some(),
        regions_only: c.regions_only.clone(),
        regions_exclude: c.regions_exclude.clone(),
        providers_only: c.providers_only.clone(),
        providers_ignore: c.providers_ignore.clone(),
    }
}
