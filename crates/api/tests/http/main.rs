//! A real server on a free port over a scripted router, watched by a client that sees the bytes.

mod access;
mod answers;
mod connections;
mod dashboard;
mod failures;
mod reading;
mod support;
