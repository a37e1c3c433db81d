//! Plain serde structs of the public wire formats.
