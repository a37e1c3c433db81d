//! What an operator sees of a router: its state, read once a second. What happens to single calls is counted where it happens.

use super::router::{RouterHandle, now};
use std::time::Duration;
use stoa_nodes::router::Router;
use stoa_types::Timestamp;

const RHYTHM: Duration = Duration::from_secs(1);

/// Measures `router` as long as this process lives.
pub async fn watch(router: RouterHandle) {
    let mut ticks = tokio::time::interval(RHYTHM);
    loop {
        ticks.tick().await;
        let state = State::of(&router.core(), now());
        state.show();
    }
}

/// Read under the router's lock, shown without it.
struct State {
    calls: usize,
    providers: usize,
    slots: u32,
    unsealed: u64,
    unposted: u64,
    unsettled_seconds: u64,
    batch_seconds: u64,
}

impl State {
    fn of(core: &Router, now: Timestamp) -> Self {
        let book = core.book();
        let (mut providers, mut slots) = (0, 0_u32);
        for (_, standing) in core.stock().iter().filter(|(_, s)| s.online) {
            providers += 1;
            slots = slots.saturating_add(standing.open_slots());
        }
        // Batches are posted in their order: the first leaf of the next one is the oldest that is not settled.
        let oldest = match book.next_post() {
            Some(batch) => book
                .jobs_of(batch.sealed.index)
                .first()
                .and_then(|job| book.receipt(*job))
                .map(|signed| signed.receipt.delivered_at),
            None => book.oldest_unsealed(),
        };
        let sealed = u64::try_from(book.batches().len()).unwrap_or(u64::MAX);
        Self {
            calls: core.active(),
            providers,
            slots,
            unsealed: book.unsealed_count(),
            unposted: sealed.saturating_sub(book.posted_count()),
            unsettled_seconds: oldest.map_or(0, |at| now.since(at).0 / 1000),
            batch_seconds: core.config().profile.settlement.batch_seconds,
        }
    }

    fn show(&self) {
        metrics::gauge!("stoa_router_calls_active").set(self.calls as f64);
        metrics::gauge!("stoa_router_providers_online").set(self.providers as f64);
        metrics::gauge!("stoa_router_slots_free").set(f64::from(self.slots));
        metrics::gauge!("stoa_router_charges_unsealed").set(self.unsealed as f64);
        metrics::gauge!("stoa_router_batches_unposted").set(self.unposted as f64);
        metrics::gauge!("stoa_router_unsettled_age_seconds").set(self.unsettled_seconds as f64);
        metrics::gauge!("stoa_router_batch_seconds").set(self.batch_seconds as f64);
    }
}
