//! Backends on small random models of the engine's tests.

#[path = "../../../engine/tests/support/mod.rs"]
mod support;

mod encoder;
mod several;
