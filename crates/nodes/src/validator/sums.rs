//! Whether routers' payout roots follow from their leaves (docs/audits.md, "Sums").

use super::chain::{Covered, RoundView};
use super::{Ask, Output, Validator};
use stoa_ledger::audit::hash;
use stoa_ledger::audit::sums::{PostedRoot, RootCase, SumsFault};
use stoa_types::{Digest, Timestamp};

impl Validator {
    /// Asks for the leaf files before the round that its payout roots are measured by. Whether all that can be measured can be now.
    pub(super) fn fetch_sums(
        &mut self,
        view: &RoundView,
        now: Timestamp,
        outputs: &mut Vec<Output>,
    ) -> bool {
        let mut complete = true;
        for covered in &view.covers {
            for (number, root) in covered.rooted() {
                for post in root.base.max(1)..=number {
                    let key = (covered.router, post);
                    let Some(posted) = covered.known(post) else {
                        continue; // Nobody who looks at this chain can ask for it.
                    };
                    if self.sums.contains_key(&key) {
                        continue;
                    }
                    complete = false;
                    if post <= covered.before && self.ask(Ask::Leaves(key.0, post), now) {
                        outputs.push(Output::FetchLeaves {
                            router: key.0,
                            post,
                            content_id: posted.content_id,
                        });
                    }
                }
            }
        }
        complete
    }

    /// Batches of a round whose payout roots do not follow from the leaves. Of those that something is missing for nothing is said: the
    /// verdict on the missing batch is that it is withheld.
    pub(super) fn bad_sums(&self, view: &RoundView) -> Vec<(Digest, SumsFault)> {
        let covers = view.covers.iter();
        let roots = covers.flat_map(|covered| {
            let rooted = covered.rooted();
            rooted.map(move |(number, root)| (covered, number, root))
        });
        let faults = roots.filter_map(|(covered, number, root)| {
            let fault = self.fault_of(covered, number, root)?;
            Some((hash::batch_subject(covered.router, number), fault))
        });
        faults.collect()
    }

    fn fault_of(&self, covered: &Covered, post: u64, root: &PostedRoot) -> Option<SumsFault> {
        let router = covered.router;
        let sums = |post| self.sums.get(&(router, post));
        let base = match root.base {
            0 => None,
            base => Some(sums(base)?),
        };
        let since: Option<Vec<_>> = (root.base + 1..=post).map(sums).collect();
        let case = RootCase {
            router,
            post,
            posted: *root,
            base,
            since: &since?,
            reversed: &covered.reversed,
        };
        case.check().err()
    }
}
