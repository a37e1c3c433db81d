//! Receipts and the checks that anyone can make of them, without trust and without a network.

mod content;

pub use content::{Content, ToolCall};
