//! Who judges a subject: seats drawn one after the other, each with chances exactly in proportion to stake.

use super::hash::modulo;
use stoa_crypto::{Words, keccak256};
use stoa_types::{Address, Digest};

/// A validator of a round with its stake when the round opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub validator: Address,
    /// Active stake, at most 2^96 - 1.
    pub weight: u128,
}

/// Seats of the panel for `subject`, as places in `committee`, in the order drawn. Everyone who knows the beacon gets the same.
///
/// Seat `i` goes to the member at weight `keccak256(beacon, subject, i) mod (weight not seated yet)`, counted along the committee without
/// those that sit already. A member without weight is never seated.
pub fn panel(committee: &[Member], beacon: Digest, subject: Digest, size: usize) -> Vec<usize> {
    let mut left: u128 = committee.iter().map(|member| member.weight).sum();
    let mut seats: Vec<usize> = Vec::with_capacity(size);
    for seat in 0..size.min(committee.len()) {
        let words = Words::new()
            .digest(beacon)
            .digest(subject)
            .uint(u64::try_from(seat).unwrap_or(u64::MAX));
        let Some(mut at) = modulo(keccak256(words.as_bytes()), left) else {
            break;
        };
        for (place, member) in committee.iter().enumerate() {
            if seats.contains(&place) {
                continue;
            }
            if at < member.weight {
                seats.push(place);
                left -= member.weight;
                break;
            }
            at -= member.weight;
        }
    }
    seats
}
