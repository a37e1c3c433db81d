//! Exact integer inference (IQ8).
