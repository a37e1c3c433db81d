//! Keys, signatures, Merkle trees, canonical bytes, EIP-712 digests.
