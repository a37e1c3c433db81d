//! The whole network in one process.
