//! Whether routers' payout roots follow from their leaves (docs/audits.md, "Sums").
//!
//! No round covers the leaf files that a root is measured by, but the newest ones: what is asked for here a router may refuse without a word
//! of any round. A root that cannot be measured for it is therefore withheld itself, so that none ever becomes claimable unmeasured. What the
//! payout roots since the claimable one hold stays on disk: who was away needs no old file for it.

use super::chain::{ChainView, Covered, RoundView};
use super::{Ask, Output, Validator};
use std::collections::{BTreeMap, BTreeSet};
use stoa_ledger::audit::sums::{KeptSet, POSTS_MAX, PostSums, PostedRoot, RootCase};
use stoa_ledger::audit::{Outcome, hash};
use stoa_ledger::book::PayoutSet;
use stoa_types::{Address, Digest, Timestamp};

type PostKey = (Address, u64);

/// What payout roots are measured by.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    /// Of posts under rounds, and of those before that their roots reach back to.
    posts: BTreeMap<PostKey, PostSums>,
    /// Leaves of payout roots, as they are on disk: of a router's claimable root and of those after it.
    kept: BTreeMap<PostKey, KeptSet>,
    /// Since when each leaf file that is missing has been asked for, in this life.
    asked: BTreeMap<PostKey, Timestamp>,
}

impl Sums {
    /// What the claimable root of `post` holds, if that is known; `Some(None)` for one whose leaves were never shown.
    fn base(&self, key: PostKey, content_id: Digest) -> Option<Option<&PayoutSet>> {
        let kept = self.kept.get(&key);
        // What is on disk may be about a chain that was replaced.
        let kept = kept.filter(|kept| kept.content_id == content_id);
        let kept = kept.map(|kept| Some(&kept.payout));
        kept.or_else(|| self.posts.get(&key).map(PostSums::payout))
    }

    /// A leaf file was found to be what was posted. What of it goes to the disk.
    pub(super) fn came(
        &mut self,
        key: PostKey,
        content_id: Digest,
        sums: PostSums,
    ) -> Option<KeptSet> {
        self.asked.remove(&key);
        let kept = sums.payout().cloned().map(|payout| KeptSet {
            router: key.0,
            post: key.1,
            content_id,
            payout,
        });
        self.posts.insert(key, sums);
        let kept = kept?;
        let known = self.kept.insert(key, kept.clone());
        (known.as_ref() != Some(&kept)).then_some(kept)
    }

    pub(super) fn asked(&mut self, key: PostKey, now: Timestamp) {
        self.asked.entry(key).or_insert(now);
    }

    /// The files that the root of `post` is measured by and that are missing; those that nobody who looks at this chain can ask for are not
    /// among them.
    fn missing<'a>(
        &'a self,
        covered: &'a Covered,
        post: u64,
        root: &'a PostedRoot,
    ) -> impl Iterator<Item = PostKey> + 'a {
        let reached = root.reach(post).is_ok();
        let posts = (root.base.max(1)..=post).filter(move |_| reached);
        posts.filter_map(move |number| {
            let key = (covered.router, number);
            let posted = covered.known(number)?;
            let here = match number == root.base {
                true => self.base(key, posted.content_id).is_some(),
                false => self.posts.contains_key(&key),
            };
            (!here).then_some(key)
        })
    }

    /// What is wrong with the root of `post`, if anything is: a fault of sums, or a file that its router was asked for since before
    /// `patience`. Where something is missing for another reason nothing is said.
    fn fault(
        &self,
        covered: &Covered,
        post: u64,
        root: &PostedRoot,
        patience: Timestamp,
    ) -> Option<(Outcome, String)> {
        let router = covered.router;
        let mut missing = self.missing(covered, post, root).peekable();
        if missing.peek().is_some() {
            let refused = |key: &PostKey| self.asked.get(key).is_some_and(|at| *at <= patience);
            let (_, file) = missing.find(refused)?;
            let why = format!(
                "its router does not give the leaf file of post {file}, which it is measured by"
            );
            return Some((Outcome::Withheld, why));
        }
        let fault = match root.reach(post) {
            Err(fault) => fault,
            Ok(()) => {
                let base = match root.base {
                    0 => None,
                    base => Some(self.base((router, base), covered.known(base)?.content_id)?),
                };
                let since = (root.base + 1..=post).map(|number| self.posts.get(&(router, number)));
                let since: Option<Vec<_>> = since.collect();
                let case = RootCase {
                    router,
                    post,
                    posted: *root,
                    base,
                    since: &since?,
                    reversed: &covered.reversed,
                    caps: &covered.caps,
                };
                case.check().err()?
            }
        };
        Some((fault.outcome(), fault.to_string()))
    }

    /// Keeps what a payout root can still be measured by: the posts under rounds, and all since the root that was claimable last. Of routers
    /// that no round is followed of, everything stays. Routers whose sets on disk are not needed any more below a post.
    pub(super) fn keep(&mut self, view: &ChainView) -> Vec<PostKey> {
        let covers = || view.rounds.iter().flat_map(|round| &round.covers);
        let bases = covers().filter_map(|c| {
            // Of what lies too far back no root is measured any more.
            let newest = c.before + c.posts.len() as u64;
            let base = c.roots.last()?.base;
            Some((c.router, base.max(newest.saturating_sub(POSTS_MAX))))
        });
        // Of two rounds the later one counts.
        let bases: BTreeMap<_, _> = bases.collect();
        let followed: BTreeSet<_> = covers().map(|covered| covered.router).collect();
        let is_known = |(router, post): &PostKey| {
            let mut covers = covers().filter(|covered| covered.router == *router);
            covers.any(|covered| covered.known(*post).is_some())
        };
        let needed = |key: &PostKey| {
            let since = bases.get(&key.0).is_some_and(|base| key.1 >= *base);
            since || !followed.contains(&key.0) || is_known(key)
        };
        self.posts.retain(|key, _| needed(key));
        self.asked.retain(|key, _| is_known(key));
        let before = self.kept.len();
        self.kept.retain(|key, _| needed(key));
        if self.kept.len() == before {
            return Vec::new();
        }
        let first = followed.into_iter().filter_map(|router| {
            let mut left = self.kept.range((router, 0)..=(router, u64::MAX));
            left.next().map(|(key, _)| *key)
        });
        first.collect()
    }
}

impl Validator {
    /// Comes back with the leaves of payout roots that were kept on disk.
    #[must_use]
    pub fn with_sums(mut self, kept: impl IntoIterator<Item = KeptSet>) -> Self {
        let kept = kept
            .into_iter()
            .map(|kept| ((kept.router, kept.post), kept));
        self.sums.kept.extend(kept);
        self
    }

    /// Asks for the leaf files before the round that its payout roots are measured by. Whether all that can be measured can be now.
    pub(super) fn fetch_sums(
        &mut self,
        view: &RoundView,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) -> bool {
        let mut missing = BTreeSet::new();
        for covered in &view.covers {
            for (number, root) in covered.rooted() {
                missing.extend(self.sums.missing(covered, number, root));
            }
        }
        for key in &missing {
            let mut covers = view.covers.iter().filter(|c| c.router == key.0);
            let posted = covers.find_map(|c| c.known(key.1).filter(|_| key.1 <= c.before));
            let Some(content_id) = posted.map(|posted| posted.content_id) else {
                continue; // It is of this round, and asked for as one of it.
            };
            if self.ask(Ask::Leaves(key.0, key.1), now) {
                self.sums.asked(*key, now);
                outputs.push(Output::FetchLeaves {
                    router: key.0,
                    post: key.1,
                    content_id,
                    is_older: true,
                });
            }
        }
        missing.is_empty()
    }

    /// What is to be said of the batches of a round for their payout roots.
    pub(super) fn bad_sums(
        &self,
        view: &RoundView,
        now: Timestamp,
    ) -> Vec<(Digest, Outcome, String)> {
        // As long as who comes back near the end waits.
        let patience = Timestamp(now.0.saturating_sub(self.config.margin.0 / 2));
        let covers = view.covers.iter();
        let roots = covers.flat_map(|covered| {
            let rooted = covered.rooted();
            rooted.map(move |(number, root)| (covered, number, root))
        });
        let faults = roots.filter_map(|(covered, number, root)| {
            let (outcome, why) = self.sums.fault(covered, number, root, patience)?;
            Some((hash::batch_subject(covered.router, number), outcome, why))
        });
        faults.collect()
    }
}
