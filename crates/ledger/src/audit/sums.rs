//! Whether a payout root follows from the leaves: a pure function of the leaf files and of what the chain held before the post, so that all
//! validators find the same whenever they look.
//!
//! A root is measured by the root that was claimable when it was posted. Every provider has what it had there, and the charges of all leaves
//! since, without those that a verdict reversed meanwhile; no developer has more; the router may have more, for it takes over debits that
//! came too late. Both sides have the posted gross.
//!
//! A root may pay a charge that was reversed while its post was under way. It is wrong all the same: it must not become claimable. That its
//! router could not know is the verdict's to see (`PanelVerdict.wasUnderWay`).

use crate::book::{LeafFile, PayoutSet};
use crate::roots::pay_root;
use std::collections::BTreeMap;
use stoa_types::{Address, Digest, JobId, TokenAmount};

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
    /// The post whose root was claimable, if there was one.
    pub base: Option<&'a PostSums>,
    /// The posts since, the last being the one that is judged.
    pub since: &'a [&'a PostSums],
    /// Reversed charges of this router; those before and after are passed over.
    pub reversed: &'a [Reversed],
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
    /// No honest sum leaves its type.
    #[error("the charges are too large to be added up")]
    TooLarge,
}

type Totals<K> = BTreeMap<K, TokenAmount>;

fn add<K: Ord>(totals: &mut Totals<K>, key: K, amount: TokenAmount) -> Result<(), SumsFault> {
    let total = totals.entry(key).or_default();
    *total = total.checked_add(amount).ok_or(SumsFault::TooLarge)?;
    Ok(())
}

impl RootCase<'_> {
    /// Whether the root follows.
    pub fn check(&self) -> Result<(), SumsFault> {
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
        let (due, most) = self.due()?;
        same_pay(&set.providers, &due)?;
        let over = set
            .debits
            .iter()
            .filter(|((who, _), _)| *who != self.router);
        for (key, found) in over {
            let most = most.get(key).copied().unwrap_or_default();
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

    /// What providers are due and developers owe at most.
    #[allow(clippy::type_complexity)]
    fn due(&self) -> Result<(Totals<(Address, u16)>, Totals<(Address, u32)>), SumsFault> {
        let (mut due, mut most) = match self.base.map(|sums| &sums.payout) {
            None => Default::default(),
            Some(Some(set)) => (set.providers.clone(), set.debits.clone()),
            // Nothing can be measured by a claimable root whose leaves were never shown; an honest router shows them.
            Some(None) => return Err(SumsFault::NoPayout),
        };
        let meanwhile = self.posted.base..self.post;
        let reversed = self.reversed.iter();
        let mut reversed: Vec<_> = reversed.filter(|r| meanwhile.contains(&r.after)).collect();
        for charge in self.since.iter().flat_map(|sums| &sums.charges) {
            let same = |r: &&Reversed| {
                (r.job, r.account, r.charge) == (charge.job, charge.payer.0, charge.amount)
            };
            // Each reversal is of one leaf, also where a router posted a job twice.
            if let Some(place) = reversed.iter().position(same) {
                reversed.swap_remove(place);
                continue;
            }
            add(&mut due, charge.payee, charge.amount)?;
            add(&mut most, charge.payer, charge.amount)?;
        }
        Ok((due, most))
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

    /// Post 4, measured by post 2, whose root holds jobs 1 and 2; posts 3 and 4 hold jobs 3 and 4, and 5 and 6.
    fn judged(payout: [u128; 4], reversed: &[Reversed]) -> Result<(), SumsFault> {
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
            base: Some(&base),
            since: &[&third, &fourth],
            reversed,
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
            judged([9, 12, 21, 0], &[reversed(3, 3)]),
            Err(SumsFault::WrongPay { .. })
        ));
        assert_eq!(judged([6, 12, 18, 0], &[reversed(3, 3)]), Ok(()));
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
            post: 1,
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
        };
        assert_eq!(case.check(), Err(SumsFault::TooLarge));
    }
}
