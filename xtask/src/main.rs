//! Project tasks: one command for each thing a developer does.
fn main() {}
