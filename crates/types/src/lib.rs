//! Words of the domain: ids, amounts, times, jobs, receipts, profiles.
