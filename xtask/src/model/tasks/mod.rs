//! The task families. Each function draws one task; which side of the split it falls on is decided by its keys.

pub mod extract;
pub mod facts;
pub mod story;
pub mod sums;
pub mod talk;
pub mod text;
pub mod tools;
