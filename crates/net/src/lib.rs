//! Authenticated peer streams over iroh.
