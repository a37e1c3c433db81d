//! What the commands do besides `up`.

pub mod ask;

/// Result of a command: its error is one clear sentence for a person.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
