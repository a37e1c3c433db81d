//! A router that cheats, for devnets: to see how it is found out and what follows.
//!
//! Its books stay honest. What it posts and shows is forged from them, file by file, so that a restart forges the same; and what the chain
//! tells of its forgeries it reads as if its books had been posted. One that issues tickets above the cover reads of the chain larger caps
//! than there are, and does the rest as it should.

use std::sync::Arc;
use stoa_chain::Post;
use stoa_crypto::{MerkleTree, SecretKey, receipt_digest, receipt_leaf};
use stoa_ledger::book::{LeafFile, PayoutSet, RouterBook};
use stoa_ledger::roots::pay_root;
use stoa_nodes::router::ChainEvent;
use stoa_types::{Address, Digest, Millis, SignedReceipt, TokenAmount};

/// What a router that overpays itself takes, in units.
const OVERPAID: u128 = 1_000;

/// What a router that ignores caps reads beyond each, in units.
const IGNORED: u128 = 1_000_000_000_000;

/// How a router cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum RouterCheat {
    /// It posts charges one unit above what counts and prices give.
    Overcharge,
    /// Its payout roots credit it with more than it did, at a developer's cost.
    BadSums,
    /// It posts the first job of each batch twice.
    DoublePost,
    /// It gives nobody the leaf files of its batches.
    Withhold,
    /// It serves developers beyond what they allotted.
    OverIssue,
}

impl RouterCheat {
    /// Whether it needs money in the vault itself: no payout root may pay more than all have allotted.
    pub fn needs_cover(self) -> bool {
        self == Self::OverIssue
    }
}

/// Forges what a router posts and shows.
#[derive(Debug)]
pub struct Forger {
    cheat: RouterCheat,
    key: SecretKey,
}

/// A leaf's share of the totals.
type Share = ((Address, u16), (Address, u32), TokenAmount);

impl Forger {
    /// For the router of `key`; `None` where it does not cheat.
    pub fn new(cheat: Option<RouterCheat>, key: &SecretKey) -> Option<Arc<Self>> {
        let cheat = cheat?;
        tracing::warn!(?cheat, "this router cheats, as was asked for");
        let key = key.clone();
        Some(Arc::new(Self { cheat, key }))
    }

    /// The leaf file that it shows of a batch.
    pub fn shown(&self, book: &RouterBook, index: u64) -> Option<LeafFile> {
        if self.cheat == RouterCheat::Withhold {
            return None;
        }
        self.file(book, index)
    }

    /// What it posts in place of a batch of its books.
    pub fn post(&self, book: &RouterBook, honest: Post) -> Post {
        let Some(file) = self.file(book, honest.index) else {
            return honest;
        };
        let leaves = file.leaves.iter();
        let leaves: Vec<_> = leaves.map(|(s, _)| receipt_leaf(&s.receipt)).collect();
        let rooted = file
            .payout
            .as_ref()
            .filter(|_| honest.pay_root != Digest::ZERO);
        let (pay_root, gross) = match rooted {
            Some(set) => self.root(set),
            None => (honest.pay_root, honest.gross),
        };
        Post {
            job_count: u32::try_from(leaves.len()).unwrap_or(honest.job_count),
            job_root: MerkleTree::new(leaves).root(),
            content_id: file.content_id(),
            pay_root,
            gross,
            ..honest
        }
    }

    /// What the chain told, as if the books had been posted.
    pub fn as_of_books(&self, book: &RouterBook, event: ChainEvent) -> ChainEvent {
        let honest = |root| self.honest(book, root);
        match event {
            ChainEvent::BatchPosted {
                index,
                head,
                block,
                at,
                pay_root,
            } => ChainEvent::BatchPosted {
                index,
                head: book.chain_head(index).unwrap_or(head),
                block,
                at,
                pay_root: honest(pay_root).map_or(pay_root, |(root, _)| root),
            },
            ChainEvent::PayoutVoided { pay_root, block } => ChainEvent::PayoutVoided {
                pay_root: honest(pay_root).map_or(pay_root, |(root, _)| root),
                block,
            },
            ChainEvent::PayoutPromoted {
                pay_root,
                gross,
                block,
            } => {
                let (pay_root, gross) = honest(pay_root).unwrap_or((pay_root, gross));
                ChainEvent::PayoutPromoted {
                    pay_root,
                    gross,
                    block,
                }
            }
            ChainEvent::Allotment {
                account,
                generation,
                cap,
                debited,
                expiry,
                fee_version,
            } => ChainEvent::Allotment {
                account,
                generation,
                cap: self.believed(account, cap),
                debited,
                expiry,
                fee_version,
            },
            other => other,
        }
    }

    /// The cap that it takes an allotment to have.
    fn believed(&self, account: Address, mut cap: TokenAmount) -> TokenAmount {
        if self.cheat == RouterCheat::OverIssue && account != self.key.address() {
            add(&mut cap, TokenAmount::from_units(IGNORED));
        }
        cap
    }

    /// Root and gross in the books of a root that was posted.
    fn honest(&self, book: &RouterBook, posted: Digest) -> Option<(Digest, TokenAmount)> {
        let sealed = book.batches().iter().rev().map(|batch| &batch.sealed);
        // A post without a payout root has nothing to look for.
        let mut rooted =
            sealed.filter(|sealed| posted != Digest::ZERO && sealed.pay_root != Digest::ZERO);
        let sealed = rooted.find(|sealed| {
            let file = self.file(book, sealed.index);
            let payout = file.and_then(|file| file.payout);
            payout.is_some_and(|set| self.root(&set).0 == posted)
        })?;
        Some((sealed.pay_root, sealed.gross))
    }

    fn root(&self, set: &PayoutSet) -> (Digest, TokenAmount) {
        let router = self.key.address();
        let (providers, debits) = (set.provider_tree(router), set.debit_tree(router));
        let gross = TokenAmount::checked_sum(set.providers.values().copied());
        let root = pay_root(providers.root(), debits.root());
        (root, gross.unwrap_or_default())
    }

    fn file(&self, book: &RouterBook, index: u64) -> Option<LeafFile> {
        let mut file = book.leaf_file(index)?;
        match self.cheat {
            RouterCheat::Overcharge => {
                let leaves = file.leaves.iter_mut().map(|(signed, _)| signed);
                leaves.for_each(|signed| self.raise(signed));
            }
            RouterCheat::DoublePost => {
                let again = file.leaves.first().cloned();
                file.leaves
                    .extend(again.map(|(signed, generation)| (self.again(signed), generation)));
            }
            RouterCheat::BadSums | RouterCheat::Withhold | RouterCheat::OverIssue => {}
        }
        if let Some(set) = file.payout.as_mut() {
            // What it takes too much it takes for good.
            let taken = (1..=index).filter_map(|index| book.leaf_file(index));
            for (payee, payer, amount) in taken.flat_map(|file| self.taken(&file)) {
                add(set.providers.entry(payee).or_default(), amount);
                add(set.debits.entry(payer).or_default(), amount);
            }
        }
        Some(file)
    }

    /// What it takes too much with an honest file.
    fn taken(&self, file: &LeafFile) -> Vec<Share> {
        let share = |(signed, generation): &(SignedReceipt, u32), amount| {
            let receipt = &signed.receipt;
            let payee = (receipt.provider, receipt.fee_version);
            (payee, (receipt.account, *generation), amount)
        };
        let charged = file
            .leaves
            .iter()
            .filter(|(s, _)| !s.receipt.charge.is_zero());
        match self.cheat {
            RouterCheat::Overcharge => charged.map(|leaf| share(leaf, ONE)).collect(),
            RouterCheat::DoublePost => {
                let first = file.leaves.first();
                first
                    .map(|leaf| share(leaf, leaf.0.receipt.charge))
                    .into_iter()
                    .collect()
            }
            RouterCheat::BadSums if file.index == 1 => {
                let first = file.leaves.first();
                let overpaid = TokenAmount::from_units(OVERPAID);
                let own = first.map(|leaf| {
                    let (payee, payer, amount) = share(leaf, overpaid);
                    ((self.key.address(), payee.1), payer, amount)
                });
                own.into_iter().collect()
            }
            RouterCheat::BadSums | RouterCheat::Withhold | RouterCheat::OverIssue => Vec::new(),
        }
    }

    fn raise(&self, signed: &mut SignedReceipt) {
        if !signed.receipt.charge.is_zero() {
            add(&mut signed.receipt.charge, ONE);
            self.sign(signed);
        }
    }

    fn again(&self, mut signed: SignedReceipt) -> SignedReceipt {
        signed.receipt.delivered_at = signed.receipt.delivered_at.plus(Millis(1));
        self.sign(&mut signed);
        signed
    }

    /// The provider signs nothing of the kind.
    fn sign(&self, signed: &mut SignedReceipt) {
        signed.router_signature = self.key.sign(receipt_digest(&signed.receipt));
    }
}

const ONE: TokenAmount = TokenAmount::from_units(1);

fn add(total: &mut TokenAmount, amount: TokenAmount) {
    *total = total.checked_add(amount).unwrap_or(*total);
}
