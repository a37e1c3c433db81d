//! What is away, and for how long: crashes, links, the router, the chain.
//!
//! Short outages are what every party must bear: one at a time, each over before a phase can be missed by it. Long ones outlast phases. They may
//! cost a validator what a missed duty costs, and nobody anything else.

use super::{Cheat, Validator, World, validator};
use stoa_types::Address;

/// How long things are away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outages {
    /// None.
    None,
    /// A few seconds, one after the other.
    Short,
    /// Also outages that outlast phases.
    Long,
}

/// One validator's outages: it is away until these times.
#[derive(Debug, Default)]
pub(super) struct Away {
    /// The process.
    down: u64,
    /// Its link to the chain.
    chain: u64,
    /// Its links to router and validators.
    peers: u64,
    /// Nothing new fails before.
    calm: u64,
    /// It was away for longer than a phase.
    long: bool,
}

/// Outages of what all share.
#[derive(Debug, Default)]
pub(super) struct Common {
    chain: u64,
    router: u64,
    /// When the next long outage begins.
    next_long: u64,
}

impl Common {
    pub(super) fn chain_is_up(&self, now: u64) -> bool {
        now >= self.chain
    }

    pub(super) fn router_is_up(&self, now: u64) -> bool {
        now >= self.router
    }
}

/// After an outage this long nothing fails, so that no phase sees two.
const CALM: u64 = 12;

impl World {
    /// Lets something that all share fail, or something fail for long.
    pub(super) fn fail(&mut self) {
        let now = self.now;
        if self.plan.outages == Outages::None {
            return;
        }
        let calm = self.nodes.iter().all(|node| now >= node.away.calm);
        if calm && self.rng.chance(6) {
            let end = now + self.rng.between(1, 4);
            if self.rng.chance(500) {
                self.away.chain = end;
            } else {
                self.away.router = end;
            }
            self.nodes
                .iter_mut()
                .for_each(|node| node.away.calm = end + CALM);
            self.outcome.outages += 1;
        }
        if self.plan.outages == Outages::Long && calm && now >= self.away.next_long {
            self.fail_long();
        }
    }

    fn fail_long(&mut self) {
        let (now, long) = (self.now, self.rng.between(15, 90));
        let end = now + long;
        self.away.next_long = end + self.rng.between(60, 240);
        let n = self.rng.below(self.nodes.len() as u64) as usize;
        let away = &mut self.nodes[n].away;
        match self.rng.below(4) {
            0 => away.down = end,
            1 => away.chain = end,
            2 => away.peers = end,
            _ => {
                self.away.chain = end;
                for node in &mut self.nodes {
                    node.away.long = true;
                    node.away.calm = end + CALM;
                }
            }
        }
        let away = &mut self.nodes[n].away;
        away.long = true;
        away.calm = end + CALM;
        if away.down == end {
            self.restart(n);
        }
        self.outcome.outages += 1;
    }

    /// Whether a validator is down, or goes down now.
    pub(super) fn fails(&mut self, n: usize) -> bool {
        let (now, node) = (self.now, &mut self.nodes[n]);
        if now < node.away.down || node.cheat == Some(Cheat::Sleep) {
            return true;
        }
        if self.plan.outages == Outages::None || now < node.away.calm || !self.rng.chance(12) {
            return false;
        }
        let end = now + self.rng.below(4);
        node.away.calm = now.max(end) + CALM;
        match self.rng.below(4) {
            0 => node.away.chain = end,
            1 => node.away.peers = end,
            _ => {
                node.away.down = end;
                self.outcome.crashes += 1;
                self.restart(n);
                return true;
            }
        }
        self.outcome.outages += 1;
        false
    }

    /// Memory is gone; what the disk has stays. What nothing waits for may not have got there.
    pub(super) fn restart(&mut self, n: usize) {
        let lost = self.rng.chance(300);
        let node = &mut self.nodes[n];
        if lost {
            node.sums.clear();
        }
        let core = Validator::recover(node.config.clone(), node.disk.clone());
        node.core = core.with_sums(node.sums.values().cloned());
        node.inbox.clear();
        node.seen = 0;
    }

    pub(super) fn sees_chain(&self, n: usize) -> bool {
        self.away.chain_is_up(self.now) && self.now >= self.nodes[n].away.chain
    }

    pub(super) fn reaches_peers(&self, n: usize) -> bool {
        self.now >= self.nodes[n].away.peers
    }

    pub(super) fn was_away(&self, who: Address) -> bool {
        let long = self.nodes.iter().filter(|node| node.away.long);
        long.map(|node| node.core.account()).any(|away| away == who)
    }

    /// A validator that lost its seat to an outage takes it again, as its shell would.
    pub(super) fn join_again(&mut self) {
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            let who = validator(n).address();
            let lost = node.cheat.is_none() && !self.rounds.validators().contains(&who);
            if lost && self.sees_chain(n) && self.now >= node.away.down {
                let tip = node.core.tip_to_join();
                let point = validator(n).public_key().point();
                if self.rounds.join(&self.stakes, who, tip, point).is_ok() {
                    self.dirty = true;
                }
            }
        }
    }
}
