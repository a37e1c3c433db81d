//! Contract bindings, chain access, event indexer, sender.
