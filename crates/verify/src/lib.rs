//! Receipts and the checks anyone can make of them.
