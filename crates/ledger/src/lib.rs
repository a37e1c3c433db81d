//! Money: an executable model of the contracts that hold it, the router's ledger beside them, and the rounding rules of both.
//!
//! - [`vault`], [`stake`]: the model of PaymentVault and StakeRegistry, written before the contracts and tested against their
//!   bytecode (DECISIONS 15). Every operation either happens whole or changes nothing.
//! - [`book`]: what one router promised and charged, as a state machine over journaled entries.
//! - [`audit`]: the model of the contracts that judge, and what every validator must compute alike.
//! - [`fees`]: the only functions of the project that round money (DECISIONS 20).
//!
//! Times are arguments; amounts are integers and checked.

pub mod audit;
pub mod book;
pub mod fees;
pub mod roots;
pub mod stake;
pub mod vault;
pub mod wire;

/// The only payout class so far; leaves name it so that others can follow (DECISIONS 14).
pub(crate) const CLASS: u8 = 0;
