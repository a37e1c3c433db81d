//! Whether a grammar can be made within limits of memory and time, found out before it is made for an answer.
//!
//! A schema is written by whoever calls. The library that makes grammars of schemas counts their parts, and not what it copies or compares
//! while it joins them: 60 kB of schema can take hours or all memory. So it is made once for nothing in a process of limited memory and
//! processor time ([`serve_grammars`]); where that process ends, the schema is refused.

use crate::apart::{self, Apart, ApartError};
use std::io::{self, Read, Write};
use std::sync::Arc;
use stoa_grammar::{Grammar, Sources, TRIAL_STACK_BYTES};

/// Where grammars are tried.
#[derive(Debug, Clone, Default)]
pub enum Grammars {
    /// Nowhere: for callers that one trusts.
    #[default]
    Trusted,
    /// In processes of their own, which call [`serve_grammars`].
    Apart(Arc<Apart>),
}

impl Grammars {
    /// Whether making `grammar` keeps within the limits; whether it can be made at all is not said. Waits for it. Nothing is remembered: how
    /// fast a second answer comes would tell one caller what another asked for.
    pub fn try_out(&self, grammar: &Grammar) -> Result<(), ApartError> {
        match self {
            Self::Apart(apart) if !grammar.is_plain() => apart.ask(&Sources::of(grammar)),
            _ => Ok(()),
        }
    }

    /// Whether grammars can be tried at all.
    pub fn check(&self) -> Result<(), ApartError> {
        match self {
            Self::Apart(apart) => apart.ask(&Sources::of(&Grammar::JsonObject)),
            Self::Trusted => Ok(()),
        }
    }
}

/// Makes the grammars that come from `input` for nothing, until it ends: the main loop of the other process, which has limited its own
/// memory before. `limit` is called before each: processor time is limited for each.
pub fn serve_grammars(
    input: impl Read + Send,
    output: impl Write + Send,
    limit: impl FnMut() -> io::Result<()> + Send,
) -> io::Result<()> {
    let tried = |sources: &Sources| {
        // What is wrong with it is found again, and said, where it is made for an answer.
        drop(sources.try_out());
        Ok(serde_json::to_vec(&())?)
    };
    // One stack for all of them, so that none begins without.
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .stack_size(TRIAL_STACK_BYTES)
            .spawn_scoped(scope, || apart::serve(input, output, limit, tried))?
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
