//! Routing scores and the hot pool.
