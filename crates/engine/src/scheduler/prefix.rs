//! Full pages of earlier prompts and answers, found again by the tokens that they hold and all that stood before them.
//!
//! Every tenant has its own: whether another's prompt was seen lately cannot be told from how soon one's own is answered.

use super::Tenant;
use crate::cache::{PAGE, Page};
use std::collections::HashMap;
use std::sync::Arc;

/// A page by what leads to it: the page before it (0 for none) and its own tokens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    tenant: Tenant,
    before: u64,
    tokens: Box<[u32]>,
}

#[derive(Debug)]
struct Kept {
    id: u64,
    before: u64,
    page: Arc<Page>,
    /// When it was last used, in uses of the cache.
    used: u64,
    /// Pages that follow it here.
    followers: usize,
}

/// Pages kept for later, with the order in which they were used.
#[derive(Debug, Default)]
pub(super) struct PrefixCache {
    places: HashMap<Place, Kept>,
    by_id: HashMap<u64, Place>,
    last_id: u64,
    uses: u64,
}

impl PrefixCache {
    /// The pages of the longest beginning of `tokens` that are kept for this tenant. At least one token is left over, since the logits
    /// after the last one are not kept.
    pub fn find(&mut self, tenant: Tenant, tokens: &[u32]) -> Vec<Arc<Page>> {
        let whole = tokens.len().saturating_sub(1) / PAGE * PAGE;
        let (mut before, mut found) = (0, Vec::new());
        self.uses += 1;
        for tokens in tokens[..whole].chunks_exact(PAGE) {
            let place = Place {
                tenant,
                before,
                tokens: tokens.into(),
            };
            let Some(kept) = self.places.get_mut(&place) else {
                break;
            };
            kept.used = self.uses;
            before = kept.id;
            found.push(Arc::clone(&kept.page));
        }
        found
    }

    /// Keeps the full pages of a sequence that holds `tokens`. What is there already stays.
    pub fn keep(&mut self, tenant: Tenant, tokens: &[u32], pages: &[Arc<Page>]) {
        let mut before = 0;
        self.uses += 1;
        for (tokens, page) in tokens.chunks_exact(PAGE).zip(pages) {
            let place = Place {
                tenant,
                before,
                tokens: tokens.into(),
            };
            if let Some(kept) = self.places.get_mut(&place) {
                (kept.used, before) = (self.uses, kept.id);
                continue;
            }
            self.last_id += 1;
            let kept = Kept {
                id: self.last_id,
                before,
                page: Arc::clone(page),
                used: self.uses,
                followers: 0,
            };
            self.count_follower(before, 1);
            self.by_id.insert(kept.id, place.clone());
            before = kept.id;
            self.places.insert(place, kept);
        }
    }

    /// Lets go the page that was not used for the longest time, of those that no sequence uses and none follows; says whether there was
    /// one.
    pub fn let_go_one(&mut self) -> bool {
        let free = |kept: &&Kept| kept.followers == 0 && Arc::strong_count(&kept.page) == 1;
        let oldest = self.places.values().filter(free).min_by_key(|k| k.used);
        let Some((id, before)) = oldest.map(|kept| (kept.id, kept.before)) else {
            return false;
        };
        if let Some(place) = self.by_id.remove(&id) {
            self.places.remove(&place);
        }
        self.count_follower(before, -1);
        true
    }

    /// Pages that no sequence uses.
    pub fn idle(&self) -> usize {
        let idle = |kept: &&Kept| Arc::strong_count(&kept.page) == 1;
        self.places.values().filter(idle).count()
    }

    /// Lets go all pages.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Pages that are kept.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn count_follower(&mut self, id: u64, change: isize) {
        let kept = self.by_id.get(&id).and_then(|p| self.places.get_mut(p));
        if let Some(kept) = kept {
            kept.followers = kept.followers.saturating_add_signed(change);
        }
    }
}
