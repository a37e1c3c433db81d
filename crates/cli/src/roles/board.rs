//! What the dashboard shows, read from the router's state machine, its statistics and what it followed of the chain.

use super::gateway::{
    BATCHES_SHOWN, ChainView, JOBS_PER_BATCH_SHOWN, RouterGateway, account_row, batch_row,
    past_row, provider_row,
};
use super::router::now;
use super::trail::Trail;
use crate::commands::verify::charge;
use std::collections::{BTreeMap, BTreeSet};
use stoa_api::{
    AccountRow, Audits, BatchRow, Board, CallView, Calls, Gateway, KeyUse, LossRow, Money,
    OfferRow, Overview, PayoutRow, Performance, ProviderLine, ProviderOwn, ProviderRow,
    ProviderView, ReceiptView, Viewer,
};
use stoa_chain::StakeRole;
use stoa_ledger::book::BatchRecord;
use stoa_nodes::client::Undelivered;
use stoa_nodes::router::{Loss, Router, Standing, day_of};
use stoa_types::{Address, JobId, Timestamp};
use stoa_verify::{Bundle, BundleError, Report, check_bundle, check_receipt};
use tokio::sync::watch;

/// Days of spending that are shown.
const DAYS_SHOWN: u64 = 14;
/// Calls on the first page.
const NEWEST: usize = 10;
/// Lost attempts of one provider that are shown.
const LOSSES_SHOWN: usize = 50;
/// Newest jobs of an account whose batches are shown to it.
const OWN_JOBS_READ: usize = 500;

/// Whether `viewer` sees what belongs to all of an account. No key opens a page.
fn sees(viewer: Viewer, account: Address) -> bool {
    viewer == Viewer::Operator || viewer == Viewer::Account(account)
}

fn loss_row(loss: &Loss) -> LossRow {
    LossRow {
        job: loss.job,
        provider: loss.provider,
        attempt: loss.attempt,
        cause: loss.cause.to_string(),
        counts: loss.fault,
        at: loss.at,
        taken: loss.undelivered.as_ref().map(taken),
    }
}

/// When it was taken, and until when it was owed.
fn taken(undelivered: &Undelivered) -> (Timestamp, Timestamp) {
    let accepted = undelivered.acceptance.acceptance.accepted_at;
    (accepted, undelivered.ticket.ticket.deadline)
}

/// A loss that only the disk remembers.
fn old_loss_row(undelivered: &Undelivered) -> LossRow {
    let ticket = &undelivered.ticket.ticket;
    LossRow {
        job: ticket.job_id,
        provider: ticket.provider,
        attempt: ticket.attempt,
        cause: "lost before this router's last start".to_owned(),
        counts: true,
        at: ticket.deadline,
        taken: Some(taken(undelivered)),
    }
}

impl RouterGateway {
    fn account_rows(&self, core: &Router, view: &ChainView, viewer: Viewer) -> Vec<AccountRow> {
        let book = core.book();
        let row = |account| account_row(book, view, account);
        match viewer {
            Viewer::Operator => {
                let accounts: BTreeSet<Address> = book.allotments().map(|(id, ..)| id).collect();
                accounts.into_iter().filter_map(row).collect()
            }
            Viewer::Account(account) => row(account).into_iter().collect(),
            Viewer::Key(..) => Vec::new(),
        }
    }

    /// The newest batches. An account sees those with jobs of its own, and of the jobs only these.
    fn batch_rows(&self, core: &Router, view: &ChainView, viewer: Viewer) -> Vec<BatchRow> {
        let book = core.book();
        let own = match viewer {
            Viewer::Operator => None,
            Viewer::Account(account) | Viewer::Key(account, _) => {
                let mut own: BTreeMap<u64, Vec<JobId>> = BTreeMap::new();
                for job in core.newest_jobs_of(account).take(OWN_JOBS_READ) {
                    if let Some((index, _)) = book.batch_of(job) {
                        own.entry(index).or_default().push(job);
                    }
                }
                Some(own)
            }
        };
        let row = |batch: &BatchRecord| {
            let index = batch.sealed.index;
            let own = own.as_ref().map(|own| own.get(&index));
            let total = || self.batch_total(book, index);
            match own {
                None => Some(batch_row(book, view, batch, total())),
                Some(None) => None,
                Some(Some(jobs)) => Some(BatchRow {
                    jobs: jobs.iter().take(JOBS_PER_BATCH_SHOWN).copied().collect(),
                    ..batch_row(book, view, batch, total())
                }),
            }
        };
        let newest = book.batches().iter().rev().take(BATCHES_SHOWN);
        newest.filter_map(row).collect()
    }

    /// What the router's lock need not be held for.
    fn line(&self, (row, reliability): Seen, trail: &Trail) -> ProviderLine {
        let id = row.id;
        ProviderLine {
            row,
            stake: trail.stakes.get(&(StakeRole::Provider, id)).copied(),
            slashes: trail.slash_counts.get(&id).copied().unwrap_or(0),
            reliability,
            scored: self.router.statistics().scored(id),
        }
    }

    fn payouts(
        &self,
        core: &Router,
        view: &ChainView,
        shown: impl Fn(Address) -> bool,
    ) -> Vec<PayoutRow> {
        let claimable = core.book().claimable_grosses();
        let all = core.book().lifetime_grosses();
        all.filter(|(provider, ..)| shown(*provider))
            .map(|(provider, fee_version, gross)| {
                let key = (provider, fee_version);
                PayoutRow {
                    provider,
                    fee_version,
                    gross,
                    claimable: claimable
                        .and_then(|all| all.get(&key).copied())
                        .unwrap_or_default(),
                    claimed: view.claimed.get(&key).copied(),
                }
            })
            .collect()
    }

    fn losses(&self, core: &Router, shown: impl Fn(&Loss) -> bool) -> Vec<LossRow> {
        let losses = core.losses().filter(|loss| shown(loss));
        losses.take(LOSSES_SHOWN).map(loss_row).collect()
    }

    /// Attempts at one job that were lost, those before the last start included where they were taken.
    fn losses_of(&self, core: &Router, job: JobId) -> Vec<LossRow> {
        let mut losses = self.losses(core, |loss| loss.job == job);
        let kept = self.router.undelivered().of_job(job);
        for old in kept.iter().map(old_loss_row) {
            if losses.iter().all(|known| known.attempt != old.attempt) {
                losses.push(old);
            }
        }
        losses
    }
}

/// What the router's lock is held for, of a provider: its row, and good and all outcomes of its latest jobs.
type Seen = (ProviderRow, (u32, u32));

fn seen(id: Address, standing: &Standing, now: Timestamp) -> Seen {
    let reliability = standing.track.reliability.counts(now);
    (provider_row(id, standing), reliability)
}

/// What can be checked of a receipt without the request and the answer, which a router does not keep.
fn report(view: &ReceiptView) -> Report {
    let mut report = check_receipt(&view.receipt, view.proof.as_ref());
    report.check(
        "the charge follows from counts and prices",
        charge(&view.receipt.receipt),
    );
    for claim in ["it is for this request", "it is for this answer"] {
        report.not_checked(
            claim,
            "the router keeps neither; your receipt file holds both",
        );
    }
    report
}

impl Board for RouterGateway {
    fn now(&self) -> Timestamp {
        now()
    }

    fn chain_id(&self) -> u64 {
        self.router.core().config().domain.chain_id
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.router.changes()
    }

    fn knows(&self, account: Address) -> bool {
        let core = self.router.core();
        core.book().allotment(account).is_some()
            || core.stock().get(account).is_some()
            || !self.keys.of(account).is_empty()
    }

    fn overview(&self, viewer: Viewer) -> Overview {
        let mut parts = self.ready();
        let mut jobs = self.jobs(viewer);
        jobs.truncate(NEWEST);
        let view = self.view();
        let core = self.router.core();
        let active = match viewer {
            Viewer::Operator => core.active(),
            // How busy the router is with others, and what its machine says, is not an account's to know.
            Viewer::Account(account) | Viewer::Key(account, _) => {
                let problems = parts.iter_mut().filter_map(|part| part.problem.as_mut());
                problems.for_each(|problem| "the operator is told why".clone_into(problem));
                core.active_of(account)
            }
        };
        Overview {
            now: now(),
            chain_id: core.config().domain.chain_id,
            block: view.block,
            router: core.book().router(),
            active: active as u64,
            parts,
            jobs,
            accounts: self.account_rows(&core, &view, viewer),
            batches: self.batch_rows(&core, &view, viewer),
            providers: core
                .stock()
                .iter()
                .map(|(account, standing)| provider_row(*account, standing))
                .collect(),
        }
    }

    fn calls(&self, viewer: Viewer) -> Calls {
        let jobs = self.jobs(viewer);
        let statistics = self.router.statistics();
        let failed = statistics.failed(|call| sees(viewer, call.account));
        Calls { jobs, failed }
    }

    fn call(&self, viewer: Viewer, job: JobId) -> Option<CallView> {
        if !self.may_see(viewer, job) {
            return None;
        }
        let receipt = self.receipt(viewer, job);
        let decision = self.router.decision(job);
        let mut failed = self.router.statistics().failed(|call| call.job == job);
        let view = self.view();
        let core = self.router.core();
        let under_way = core.summaries().find(|summary| summary.job == job);
        let row = under_way
            .map(|summary| super::gateway::live_row(&summary))
            .or_else(|| past_row(&core, core.book(), job));
        let found = CallView {
            row,
            failed: failed.pop(),
            decision,
            losses: self.losses_of(&core, job),
            report: receipt.as_ref().map(report),
            receipt,
            batch: core.book().batch_of(job).map(|(index, _)| {
                let transaction = view.posted.get(&index).copied();
                (index, transaction)
            }),
        };
        let anything = found.row.is_some() || found.failed.is_some() || found.decision.is_some();
        anything.then_some(found)
    }

    fn provider_lines(&self) -> Vec<ProviderLine> {
        let (view, now) = (self.view(), now());
        let read = |core: &Router| -> Vec<Seen> {
            let all = core.stock().iter();
            all.map(|(id, standing)| seen(*id, standing, now)).collect()
        };
        let all = read(&self.router.core());
        let lines = all.into_iter().map(|seen| self.line(seen, &view.trail));
        lines.collect()
    }

    fn provider(&self, viewer: Viewer, id: Address) -> Option<ProviderView> {
        let view = self.view();
        let core = self.router.core();
        let standing = core.stock().get(id)?;
        let offers = standing.hello.models.iter();
        let offer = |offer: &stoa_nodes::message::ModelOffer| OfferRow {
            model: offer.model.clone(),
            tier: offer.tier,
            context: offer.context,
            input_price: offer.input_price,
            output_price: offer.output_price,
        };
        let own = sees(viewer, id).then(|| ProviderOwn {
            payouts: self.payouts(&core, &view, |provider| provider == id),
            market: self.router.statistics().market(id),
            losses: self.losses(&core, |loss| loss.provider == id),
        });
        let (offers, seen) = (offers.map(offer).collect(), seen(id, standing, now()));
        drop(core);
        let trail = &view.trail;
        Some(ProviderView {
            line: self.line(seen, trail),
            offers,
            slashes: trail.slashes_of(id),
            rulings: trail.rulings_of(id),
            own,
        })
    }

    fn audits(&self) -> Audits {
        let phase = |round| {
            let state = self.audits.as_ref()?.state();
            Some(state.round_of(round, now()).map(|round| round.phase))
        };
        self.view().trail.audits(phase)
    }

    fn money(&self, viewer: Viewer) -> Money {
        let view = self.view();
        let core = self.router.core();
        Money {
            accounts: self.account_rows(&core, &view, viewer),
            batches: self.batch_rows(&core, &view, viewer),
            payouts: self.payouts(&core, &view, |provider| sees(viewer, provider)),
        }
    }

    fn key_uses(&self, viewer: Viewer) -> Vec<KeyUse> {
        let records = match viewer {
            Viewer::Operator => self.keys.all(),
            Viewer::Account(account) | Viewer::Key(account, _) => self.keys.of(account),
        };
        let first_day = (day_of(now()) + 1).saturating_sub(DAYS_SHOWN);
        let row = |record: stoa_api::KeyRecord| {
            let key = record.id.0;
            let row = self.key_row(record);
            let core = self.router.core();
            let days = core.spent_by_day(key, first_day).collect();
            KeyUse { row, days }
        };
        records.into_iter().map(row).collect()
    }

    fn performance(&self) -> Performance {
        self.router.statistics().performance()
    }

    fn check_file(&self, bytes: &[u8]) -> Result<Report, BundleError> {
        let bundle = Bundle::parse(bytes)?;
        let mut report = check_bundle(&bundle);
        report.check(
            "the charge follows from counts and prices",
            charge(&bundle.receipt.receipt),
        );
        Ok(report)
    }
}
