//! What the commands do besides `up`.

pub mod ask;
pub mod audit;
pub mod chain;
pub mod doctor;
pub mod keys;
mod logs;
pub mod money;
pub mod show;
pub mod verify;

/// Result of a command: its error is one clear sentence for a person.
pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
