//! What a router and a provider do, as functions of input and time: `handle(input, now) -> outputs`.
//!
//! No clock, no socket, no disk. The shells (`net`, `api`, `store`, `chain`) turn the outside world into inputs and outputs into
//! effects; the simulator does the same with faults. A reader who wants to know what a role does reads this crate alone.

pub mod audit;
pub mod client;
pub mod message;
pub mod payout;
pub mod planter;
pub mod provider;
pub mod receipts;
pub mod router;
pub mod validator;
pub mod work;
