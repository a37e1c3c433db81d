//! What the commands do besides `up`.

pub mod answer;
pub mod ask;
pub mod audit;
pub mod backup;
pub mod bench;
pub mod chain;
pub mod claim;
pub mod claim_undelivered;
pub mod connect;
pub mod doctor;
pub mod fund;
pub mod keys;
pub mod model;
pub mod money;
pub mod planter;
pub mod provider;
pub mod router;
pub mod router_faults;
pub mod ruling;
pub mod show;
pub mod take_back;
pub mod validator;
pub mod validators;
pub mod verify;

/// Result of a command: its error is one clear sentence for a person.
pub type Outcome<T = ()> = Result<T, crate::process::Failure>;
