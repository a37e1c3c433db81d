//! Money: vault, stake, reservations, batches, fees.
