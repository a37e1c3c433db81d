//! Backends: the exact engine, a scripted engine for tests; hardware discovery.
