//! A real server on a free port over a scripted router, watched by a client that sees the bytes.

mod access;
mod answers;
mod choices;
mod connections;
mod dashboard;
mod embeddings;
mod failures;
mod keys;
mod rates;
mod reading;
mod replays;
mod sign_in;
mod support;
mod visits;
