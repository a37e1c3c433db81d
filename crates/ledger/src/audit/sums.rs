//! Whether a payout root follows from the leaves: a pure function of the leaf files and of what the chain held before the post, so that all
//! validators find the same whenever they look.
//!
//! A root is measured by the root that was claimable when it was posted. Every provider has what it had there, and the charges of all leaves
//! since, without those that a verdict reversed meanwhile; no developer has more; the router may have more, for it takes over debits that
//! came too late. Both sides have the posted gross. And nobody, the router neither, is debited more than the highest cap that its allotment
//! of that generation had on chain before the post.
//!
//! A root may pay charges that were reversed while its post was under way, and be right with them. It is wrong all the same: it must not
//! become claimable. That its router could not know is an outcome of its own ([`Outcome::Void`]).

use super::Outcome;
use super::caps::Caps;
use crate::book::{LeafFile, PayoutSet};
use crate::roots::pay_root;
use crate::wire::{Reader, Wire, WireError, unknown, wire_struct};
use std::collections::BTreeMap;
use stoa_types::{Address, Digest, JobId, TokenAmount};

/// Most posts from a claimable root to one that is measured by it. It bounds what validators keep and fetch. An honest router comes near
/// it only where its roots have been cancelled for that long.
pub const POSTS_MAX: u64 = 256;

const KEPT_VERSION: u8 = 1;

/// A payout root as it was posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostedRoot {
    /// The root; zero where the post had none.
    pub pay_root: Digest,
    /// Its lifetime gross.
    pub gross: TokenAmount,
    /// Number of the post whose payout root was claimable then; zero for none.
    pub base: u64,
}

/// A charge that a verdict reversed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reversed {
    /// How many posts the router had then.
    pub after: u64,
    /// The job.
    pub job: JobId,
    /// Who does not owe it.
    pub account: Address,
    /// How much.
    pub charge: TokenAmount,
}

/// What a leaf adds to the totals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Charge {
    job: JobId,
    payee: (Address, u16),
    payer: (Address, u32),
    amount: TokenAmount,
}

/// What of a leaf file is needed to measure payout roots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostSums {
    payout: Option<PayoutSet>,
    charges: Vec<Charge>,
}

/// The leaves of a payout root, as a validator keeps them to measure later roots by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptSet {
    /// Whose.
    pub router: Address,
    /// Number of the post.
    pub post: u64,
    /// BLAKE3 of the leaf file that they stood in.
    pub content_id: Digest,
    /// The leaves.
    pub payout: PayoutSet,
}

wire_struct!(KeptSet {
    router,
    post,
    content_id,
    payout,
});

impl KeptSet {
    /// As bytes, version first.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![KEPT_VERSION];
        self.write(&mut out);
        out
    }

    /// The inverse of [`KeptSet::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let version = u8::read(&mut reader)?;
        if version != KEPT_VERSION {
            return Err(unknown("known version of kept sums", version));
        }
        let kept = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(kept)
    }
}

impl PostSums {
    /// Of a file that was found to be the one that was posted.
    pub fn of(file: &LeafFile) -> Self {
        let charge = |(signed, generation): &(stoa_types::SignedReceipt, u32)| {
            let receipt = &signed.receipt;
            Charge {
                job: receipt.job_id,
                payee: (receipt.provider, receipt.fee_version),
                payer: (receipt.account, *generation),
                amount: receipt.charge,
            }
        };
        Self {
            payout: file.payout.clone(),
            charges: file.leaves.iter().map(charge).collect(),
        }
    }

    /// The leaves of the payout root, where the file has any.
    pub fn payout(&self) -> Option<&PayoutSet> {
        self.payout.as_ref()
    }
}

/// A payout root with all that it is measured by.
#[derive(Debug)]
pub struct RootCase<'a> {
    /// Whose.
    pub router: Address,
    /// Number of its post.
    pub post: u64,
    /// What was posted.
    pub posted: PostedRoot,
    /// What the post whose root was claimable showed of it, if there was one.
    pub base: Option<Option<&'a PayoutSet>>,
    /// The posts since, the last being the one that is judged.
    pub since: &'a [&'a PostSums],
    /// Reversed charges of this router; those before and after are passed over.
    pub reversed: &'a [Reversed],
    /// What was allotted to this router.
    pub caps: &'a Caps,
}

/// Why a payout root does not follow from the leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each field is named in its sentence
pub enum SumsFault {
    /// The file lacks what the root is over.
    #[error("the leaf file has no payout leaves")]
    NoPayout,
    /// The file has other leaves.
    #[error("the payout leaves give another root than the one posted")]
    WrongRoot,
    /// The sides differ from the gross.
    #[error("the payout leaves do not add up to the posted gross of {gross}")]
    WrongGross { gross: TokenAmount },
    /// Too much, too little, or nothing due at all.
    #[error("{provider} has {found} and is due {due}")]
    WrongPay {
        provider: Address,
        found: TokenAmount,
        due: TokenAmount,
    },
    /// A developer would pay what it does not owe.
    #[error("{account} would be debited {found} and owes at most {most}")]
    WrongDebit {
        account: Address,
        found: TokenAmount,
        most: TokenAmount,
    },
    /// The router served more than was allotted to it: what is above is paid by nobody.
    #[error("{account} would be debited {found}, and its allotment never had more than {cap}")]
    OverCap {
        account: Address,
        found: TokenAmount,
        cap: TokenAmount,
    },
    /// No honest sum leaves its type.
    #[error("the charges are too large to be added up")]
    TooLarge,
    /// Right but for what the router could not know.
    #[error(
        "it pays charges that were reversed while its post was under way, and is right with them"
    )]
    UnderWay,
    /// Nobody keeps and fetches so much.
    #[error("it is {posts} posts after the claimable root, more than are measured")]
    TooFar { posts: u64 },
}

impl SumsFault {
    /// What a ballot says of the batch.
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::UnderWay | Self::TooFar { .. } => Outcome::Void,
            _ => Outcome::BadSums,
        }
    }
}

impl PostedRoot {
    /// Whether it can be measured at all, as the root of this post.
    pub fn reach(&self, post: u64) -> Result<(), SumsFault> {
        let posts = post.saturating_sub(self.base);
        if posts > POSTS_MAX {
            return Err(SumsFault::TooFar { posts });
        }
        Ok(())
    }
}

type Totals<K> = BTreeMap<K, TokenAmount>;

fn add<K: Ord>(totals: &mut Totals<K>, key: K, amount: TokenAmount) -> Result<(), SumsFault> {
    let total = totals.entry(key).or_default();
    *total = total.checked_add(amount).ok_or(SumsFault::TooLarge)?;
    Ok(())
}

/// Totals of providers by fee version, and of developers by generation.
#[derive(Debug, Clone, Default)]
struct Sides {
    due: Totals<(Address, u16)>,
    most: Totals<(Address, u32)>,
}

impl Sides {
    fn add(&mut self, charge: &Charge) -> Result<(), SumsFault> {
        add(&mut self.due, charge.payee, charge.amount)?;
        add(&mut self.most, charge.payer, charge.amount)
    }
}

impl RootCase<'_> {
    /// Whether the root follows.
    pub fn check(&self) -> Result<(), SumsFault> {
        self.posted.reach(self.post)?;
        let judged = self.since.last().and_then(|sums| sums.payout.as_ref());
        let set = judged.ok_or(SumsFault::NoPayout)?;
        let root = pay_root(
            set.provider_tree(self.router).root(),
            set.debit_tree(self.router).root(),
        );
        if root != self.posted.pay_root {
            return Err(SumsFault::WrongRoot);
        }
        let gross = self.posted.gross;
        let paid = TokenAmount::checked_sum(set.providers.values().copied());
        let debited = TokenAmount::checked_sum(set.debits.values().copied());
        if paid != Some(gross) || debited != Some(gross) {
            return Err(SumsFault::WrongGross { gross });
        }
        for (key, found) in &set.debits {
            let cap = self.caps.before(*key, self.post);
            if *found > cap {
                let (account, found) = (key.0, *found);
                return Err(SumsFault::OverCap {
                    account,
                    found,
                    cap,
                });
            }
        }
        let (mut sides, late) = self.due()?;
        let Err(fault) = self.agrees(set, &sides) else {
            return Ok(());
        };
        // A router learns of reversals in the chain's order, so that what it could not know of are the last ones.
        for charge in late.into_iter().rev() {
            sides.add(charge)?;
            if self.agrees(set, &sides).is_ok() {
                return Err(SumsFault::UnderWay);
            }
        }
        Err(fault)
    }

    /// Whether every provider has what it is due, and no developer more than it owes.
    fn agrees(&self, set: &PayoutSet, sides: &Sides) -> Result<(), SumsFault> {
        same_pay(&set.providers, &sides.due)?;
        let others = set.debits.iter();
        for (key, found) in others.filter(|((who, _), _)| *who != self.router) {
            let most = sides.most.get(key).copied().unwrap_or_default();
            if *found > most {
                let (account, found) = (key.0, *found);
                return Err(SumsFault::WrongDebit {
                    account,
                    found,
                    most,
                });
            }
        }
        Ok(())
    }

    /// What providers are due and developers owe at most; and the charges that were reversed while the post was under way, in the order of
    /// the reversals.
    fn due(&self) -> Result<(Sides, Vec<&Charge>), SumsFault> {
        let mut sides = match self.base {
            None => Sides::default(),
            Some(Some(set)) => Sides {
                due: set.providers.clone(),
                most: set.debits.clone(),
            },
            // Nothing can be measured by a claimable root whose leaves were never shown; an honest router shows them.
            Some(None) => return Err(SumsFault::NoPayout),
        };
        let mut of_job: BTreeMap<JobId, Vec<&Reversed>> = BTreeMap::new();
        let mut order: Vec<JobId> = Vec::new();
        let meanwhile = self.posted.base..self.post;
        for reversed in self.reversed.iter() {
            if meanwhile.contains(&reversed.after) {
                of_job.entry(reversed.job).or_default().push(reversed);
                if reversed.after + 1 == self.post {
                    order.push(reversed.job);
                }
            }
        }
        let mut late: BTreeMap<JobId, Vec<&Charge>> = BTreeMap::new();
        for charge in self.since.iter().flat_map(|sums| &sums.charges) {
            let same = |r: &&Reversed| (r.account, r.charge) == (charge.payer.0, charge.amount);
            // Each reversal is of one leaf, also where a router posted a job twice.
            let left = of_job.get_mut(&charge.job);
            let place = left.as_ref().and_then(|left| left.iter().position(same));
            match left.zip(place) {
                Some((left, place)) => {
                    let reversed = left.swap_remove(place);
                    if reversed.after + 1 == self.post {
                        late.entry(charge.job).or_default().push(charge);
                    }
                }
                None => sides.add(charge)?,
            }
        }
        let in_order = order.iter();
        let in_order = in_order.filter_map(|job| late.get_mut(job)?.pop());
        Ok((sides, in_order.collect()))
    }
}

fn same_pay(found: &Totals<(Address, u16)>, due: &Totals<(Address, u16)>) -> Result<(), SumsFault> {
    for key in found.keys().chain(due.keys()) {
        let amount = |totals: &Totals<_>| totals.get(key).copied().unwrap_or_default();
        let (found, due) = (amount(found), amount(due));
        if found != due {
            let provider = key.0;
            return Err(SumsFault::WrongPay {
                provider,
                found,
                due,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Address = Address([9; 20]);
    const DEVELOPER: Address = Address([8; 20]);

    fn units(units: u128) -> TokenAmount {
        TokenAmount::from_units(units)
    }

    fn provider(n: u8) -> (Address, u16) {
        (Address([n; 20]), 1)
    }

    /// Job `n` costs `n`; odd jobs are provider 1's, even ones provider 2's.
    fn charge(n: u8) -> Charge {
        Charge {
            job: JobId([n; 32]),
            payee: provider(2 - n % 2),
            payer: (DEVELOPER, 1),
            amount: units(u128::from(n)),
        }
    }

    fn sums(jobs: impl IntoIterator<Item = u8>, payout: Option<[u128; 4]>) -> PostSums {
        let set = |[first, second, debit, own]: [u128; 4]| PayoutSet {
            providers: [(provider(1), units(first)), (provider(2), units(second))].into(),
            debits: [((DEVELOPER, 1), units(debit)), ((ROUTER, 1), units(own))].into(),
        };
        PostSums {
            payout: payout.map(set),
            charges: jobs.into_iter().map(charge).collect(),
        }
    }

    fn reversed(n: u8, after: u64) -> Reversed {
        Reversed {
            after,
            job: JobId([n; 32]),
            account: DEVELOPER,
            charge: units(u128::from(n)),
        }
    }

    /// Everybody allotted so much before the router's third post.
    fn allotted(cap: u128) -> Caps {
        let mut caps = Caps::default();
        for who in [DEVELOPER, ROUTER] {
            caps.raise((who, 1), 2, units(cap), 0);
        }
        caps
    }

    /// Post 4, measured by post 2, whose root holds jobs 1 and 2; posts 3 and 4 hold jobs 3 and 4, and 5 and 6.
    fn judged(payout: [u128; 4], reversed: &[Reversed]) -> Result<(), SumsFault> {
        judged_under(&allotted(100), payout, reversed)
    }

    fn judged_under(
        caps: &Caps,
        payout: [u128; 4],
        reversed: &[Reversed],
    ) -> Result<(), SumsFault> {
        let base = sums([2], Some([1, 2, 3, 0]));
        let (third, fourth) = (sums([3, 4], None), sums([5, 6], Some(payout)));
        let set = fourth.payout.as_ref().expect("has one");
        let roots = (set.provider_tree(ROUTER), set.debit_tree(ROUTER));
        let case = RootCase {
            router: ROUTER,
            post: 4,
            posted: PostedRoot {
                pay_root: pay_root(roots.0.root(), roots.1.root()),
                gross: units(payout[0] + payout[1]),
                base: 2,
            },
            base: Some(base.payout()),
            since: &[&third, &fourth],
            reversed,
            caps,
        };
        case.check()
    }

    #[test]
    fn a_root_has_what_was_claimable_and_what_was_earned_since() {
        assert_eq!(judged([9, 12, 21, 0], &[]), Ok(()));
        assert!(matches!(
            judged([10, 12, 22, 0], &[]),
            Err(SumsFault::WrongPay { .. })
        ));
        assert!(matches!(
            judged([9, 11, 20, 0], &[]),
            Err(SumsFault::WrongPay { .. })
        ));
        // The one's pay is the other's.
        assert!(matches!(
            judged([0, 21, 21, 0], &[]),
            Err(SumsFault::WrongPay { .. })
        ));
        assert_eq!(
            judged([9, 12, 20, 0], &[]),
            Err(SumsFault::WrongGross { gross: units(21) })
        );
    }

    #[test]
    fn the_router_may_take_debits_over_and_nobody_else() {
        assert_eq!(judged([9, 12, 1, 20], &[]), Ok(()));
        let three = [reversed(3, 3)];
        assert_eq!(judged([6, 12, 18, 0], &three), Ok(()));
        // Of a reversed job the provider's pay is gone: its developer may not go on paying, for whomever.
        let fault = judged([6, 12, 18, 0], &[]);
        assert!(matches!(fault, Err(SumsFault::WrongPay { .. })));
    }

    #[test]
    fn a_reversed_charge_counts_from_its_reversal_on_until_the_root_after_it_is_claimable() {
        assert!(matches!(
            judged([9, 12, 21, 0], &[reversed(3, 2)]),
            Err(SumsFault::WrongPay { .. })
        ));
        assert_eq!(judged([6, 12, 18, 0], &[reversed(3, 2)]), Ok(()));
        // After this post: the next root is without it.
        assert_eq!(judged([9, 12, 21, 0], &[reversed(3, 4)]), Ok(()));
        // Before the claimable root, which holds what it holds.
        assert_eq!(judged([9, 12, 21, 0], &[reversed(1, 1)]), Ok(()));
        // Twice reversed is two leaves of a job that was posted twice, or nothing.
        assert_eq!(
            judged([6, 12, 18, 0], &[reversed(3, 3), reversed(3, 3)]),
            Ok(())
        );
    }

    #[test]
    fn nobody_is_debited_more_than_it_ever_allotted_before_the_post() {
        let right = [9, 12, 21, 0];
        assert_eq!(judged_under(&allotted(21), right, &[]), Ok(()));
        let over = Err(SumsFault::OverCap {
            account: DEVELOPER,
            found: units(21),
            cap: units(20),
        });
        assert_eq!(judged_under(&allotted(20), right, &[]), over);
        // What was allotted after the post, or in another generation, covers nothing of it.
        let mut caps = allotted(20);
        caps.raise((DEVELOPER, 1), 4, units(100), 0);
        caps.raise((DEVELOPER, 2), 1, units(100), 0);
        assert_eq!(judged_under(&caps, right, &[]), over);
        caps = allotted(20);
        caps.raise((DEVELOPER, 1), 3, units(21), 0);
        assert_eq!(judged_under(&caps, right, &[]), Ok(()));
        // The router takes debits over within an allotment of its own.
        let fault = judged_under(&allotted(20), [9, 12, 0, 21], &[]);
        assert!(matches!(
            fault,
            Err(SumsFault::OverCap {
                account: ROUTER,
                ..
            })
        ));
        // That a charge was reversed under way excuses nothing of it.
        let fault = judged_under(&allotted(20), right, &[reversed(3, 3)]);
        assert_eq!(fault, over);
    }

    #[test]
    fn what_was_reversed_under_way_excuses_a_root_that_is_right_with_it_and_no_other() {
        let late = [reversed(3, 3)];
        let fault = judged([9, 12, 21, 0], &late).expect_err("it must not stand");
        assert_eq!(
            (&fault, fault.outcome()),
            (&SumsFault::UnderWay, Outcome::Void)
        );
        assert_eq!(judged([6, 12, 18, 0], &late), Ok(()), "it waited");
        // One unit beside it, or the reversed pay given to another, is no excuse.
        for wrong in [
            [10, 12, 22, 0],
            [8, 12, 20, 0],
            [6, 15, 21, 0],
            [9, 15, 24, 0],
        ] {
            let fault = judged(wrong, &late).expect_err("wrong");
            assert_eq!(fault.outcome(), Outcome::BadSums, "{wrong:?}");
        }
        // Its developer may not pay it either, where the root leaves it out.
        let fault = judged([6, 12, 18, 0], &[reversed(3, 3), reversed(4, 3)]);
        assert_eq!(fault, Err(SumsFault::UnderWay), "of two it saw the first");
        let fault = judged([9, 8, 17, 0], &[reversed(3, 3), reversed(4, 3)]);
        assert!(
            matches!(fault, Err(SumsFault::WrongPay { .. })),
            "it cannot have seen the second alone"
        );
    }

    #[test]
    fn a_root_too_far_from_the_claimable_one_is_cancelled_and_not_measured() {
        let root = |base| PostedRoot {
            pay_root: Digest([1; 32]),
            gross: units(1),
            base,
        };
        assert_eq!(root(5).reach(5 + POSTS_MAX), Ok(()));
        for base in [0, 5] {
            let fault = root(base).reach(base + POSTS_MAX + 1);
            let fault = fault.expect_err("too far");
            assert_eq!(fault.outcome(), Outcome::Void);
        }
    }

    #[test]
    fn a_kept_set_comes_back_as_it_was_and_nothing_else_does() {
        let kept = KeptSet {
            router: ROUTER,
            post: 7,
            content_id: Digest([3; 32]),
            payout: sums([1], Some([1, 2, 3, 0])).payout.expect("has one"),
        };
        let bytes = kept.encode();
        assert_eq!(KeptSet::decode(&bytes), Ok(kept));
        for end in 0..bytes.len() {
            assert!(KeptSet::decode(&bytes[..end]).is_err(), "{end}");
        }
        assert!(KeptSet::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert!(KeptSet::decode(&[&[9], &bytes[1..]].concat()).is_err());
    }

    #[test]
    fn leaves_that_give_another_root_and_none_at_all_are_no_sums() {
        let empty = sums([1], None);
        let mut case = RootCase {
            router: ROUTER,
            post: 1,
            posted: PostedRoot {
                pay_root: Digest([1; 32]),
                gross: units(1),
                base: 0,
            },
            base: None,
            since: &[&empty],
            reversed: &[],
            caps: &allotted(100),
        };
        assert_eq!(case.check(), Err(SumsFault::NoPayout));
        let other = sums([1], Some([1, 0, 1, 0]));
        let posts = [&other];
        case.since = &posts;
        assert_eq!(case.check(), Err(SumsFault::WrongRoot));
    }

    #[test]
    fn charges_that_leave_their_type_are_no_honest_sum() {
        let mut huge = sums([1, 3], Some([1, 0, 1, 0]));
        huge.charges
            .iter_mut()
            .for_each(|charge| charge.amount = units(u128::MAX));
        let set = huge.payout.as_ref().expect("has one");
        let case = RootCase {
            router: ROUTER,
            post: 3,
            posted: PostedRoot {
                pay_root: pay_root(
                    set.provider_tree(ROUTER).root(),
                    set.debit_tree(ROUTER).root(),
                ),
                gross: units(1),
                base: 0,
            },
            base: None,
            since: &[&huge],
            reversed: &[],
            caps: &allotted(100),
        };
        assert_eq!(case.check(), Err(SumsFault::TooLarge));
    }
}
