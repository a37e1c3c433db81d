//! What an operator sees of the exact engine: what it did and holds, read once a second.

use std::sync::{Arc, Weak};
use std::time::Duration;
use stoa_runtime::{ModelView, Models};

const RHYTHM: Duration = Duration::from_secs(1);

/// Measures the models of a process as long as anybody uses it. Nothing happens outside of a runtime: then nobody serves metrics either.
pub fn watch(models: &Arc<Models>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(show(Arc::downgrade(models)));
    }
}

async fn show(models: Weak<Models>) {
    let mut ticks = tokio::time::interval(RHYTHM);
    loop {
        ticks.tick().await;
        let Some(models) = models.upgrade() else {
            return;
        };
        models.view().iter().for_each(show_one);
    }
}

fn show_one(view: &ModelView) {
    let (stats, model) = (&view.stats, view.model.clone());
    let gauge =
        |name, value: u64| metrics::gauge!(name, "model" => model.clone()).set(value as f64);
    gauge("stoa_engine_loaded", u64::from(view.memory > 0));
    gauge("stoa_engine_memory_bytes", view.memory);
    gauge("stoa_engine_answers", stats.running as u64);
    gauge("stoa_engine_waiting", stats.waiting as u64);
    gauge(
        "stoa_engine_cache_bytes",
        stats.pages as u64 * stats.page_bytes,
    );
    gauge(
        "stoa_engine_cache_kept_bytes",
        stats.kept_pages as u64 * stats.page_bytes,
    );
    gauge(
        "stoa_engine_cache_max_bytes",
        stats.pages_max as u64 * stats.page_bytes,
    );
    let count = |name, value| metrics::counter!(name, "model" => model.clone()).absolute(value);
    count("stoa_engine_loads_total", view.loads);
    count("stoa_engine_passes_total", stats.passes);
    count("stoa_engine_rows_total", stats.rows);
    count("stoa_engine_tokens_total", stats.chosen_tokens);
    count("stoa_engine_tokens_reused_total", stats.reused_tokens);
    count("stoa_engine_tokens_guessed_total", stats.guessed_tokens);
    count(
        "stoa_engine_tokens_guessed_right_total",
        stats.guessed_right,
    );
}
