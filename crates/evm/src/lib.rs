//! Embedded EVM chain: revm over redb, Ethereum JSON-RPC.
