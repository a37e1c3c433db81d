//! Roles that cheat, for devnets: to see how it is found out and what follows. One list of cheats for `stoa up`, where the first of a role
//! cheats, and for roles on their own.

use crate::launch::provider::Machine;
use crate::process::Failure;
use crate::roles::forger::RouterCheat;
use clap::ValueEnum;
use std::sync::Arc;
use stoa_nodes::validator::{Input, Output};
use stoa_runtime::{Backend, Cheat as Deceit, CheatingBackend};
use stoa_types::{Digest, NetworkProfile};
use stoa_verify::judge::{Answered, Finding};

/// Who cheats in `stoa up`, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Cheat {
    /// The first provider sells a stand-in's answers under the model's name.
    SwapModel,
    /// The first provider changes a token of the right answer.
    AlterOutput,
    /// The first provider counts more prompt tokens than there are.
    Overcount,
    /// The first provider takes two orders, delivers nothing, goes away, and answers nobody who claims that.
    NoDelivery,
    /// The router posts charges one unit above what counts and prices give.
    Overcharge,
    /// The router's payout roots credit it with more than it did, at a developer's cost.
    BadSums,
    /// The router posts the first job of each batch twice.
    DoublePost,
    /// The router gives nobody the leaf files of its batches.
    Withhold,
    /// The router serves developers beyond what they allotted.
    OverIssue,
    /// The first validator calls every answer good without computing it.
    Lazy,
    /// The first validator commits the ballot that another one committed.
    Copies,
    /// The first validator takes its seat and does nothing.
    Sleeps,
    /// The first validator calls every answer wrong.
    Accuses,
}

impl Cheat {
    /// What the first provider does.
    pub fn of_provider(self) -> Option<ProviderCheat> {
        match self {
            Self::SwapModel => Some(ProviderCheat::SwapModel),
            Self::AlterOutput => Some(ProviderCheat::AlterOutput),
            Self::Overcount => Some(ProviderCheat::Overcount),
            Self::NoDelivery => Some(ProviderCheat::NoDelivery),
            _ => None,
        }
    }

    /// What the router does.
    pub fn of_router(self) -> Option<RouterCheat> {
        match self {
            Self::Overcharge => Some(RouterCheat::Overcharge),
            Self::BadSums => Some(RouterCheat::BadSums),
            Self::DoublePost => Some(RouterCheat::DoublePost),
            Self::Withhold => Some(RouterCheat::Withhold),
            Self::OverIssue => Some(RouterCheat::OverIssue),
            _ => None,
        }
    }

    /// What the first validator does.
    pub fn of_validator(self) -> Option<ValidatorCheat> {
        match self {
            Self::Lazy => Some(ValidatorCheat::Lazy),
            Self::Copies => Some(ValidatorCheat::Copies),
            Self::Sleeps => Some(ValidatorCheat::Sleeps),
            Self::Accuses => Some(ValidatorCheat::Accuses),
            _ => None,
        }
    }
}

/// How a provider cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProviderCheat {
    /// It sells a stand-in's answers under the model's name.
    SwapModel,
    /// It changes a token of the right answer.
    AlterOutput,
    /// It counts more prompt tokens than there are.
    Overcount,
    /// It takes two orders, delivers nothing, goes away, and answers nobody who claims that.
    NoDelivery,
}

impl ProviderCheat {
    /// The machine of a provider that cheats.
    pub fn with(self, mut machine: Machine) -> Machine {
        let deceit = match self {
            Self::SwapModel => Deceit::SwapModel,
            Self::AlterOutput => Deceit::AlterOutput,
            Self::Overcount => Deceit::Overcount,
            Self::NoDelivery => Deceit::NoDelivery,
        };
        let cheating = |honest: Arc<dyn Backend>| {
            Arc::new(CheatingBackend::new(honest, deceit)) as Arc<dyn Backend>
        };
        machine.backends = machine.backends.into_iter().map(cheating).collect();
        machine.silent = self == Self::NoDelivery;
        tracing::warn!(cheat = ?self, "this provider cheats, as was asked for");
        machine
    }
}

/// How a validator cheats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ValidatorCheat {
    /// It calls every answer good without computing it.
    Lazy,
    /// It commits the ballot that another one committed.
    Copies,
    /// It takes its seat and does nothing.
    Sleeps,
    /// It calls every answer wrong.
    Accuses,
}

/// What a validator that cheats does in place of what its state machine wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Deed {
    /// This.
    Do(Box<Output>),
    /// Nothing; the state machine is told this.
    Tell(Answer),
    /// Nothing yet: it is asked again when the contracts say something new.
    Later(Box<Output>),
    /// Nothing.
    Nothing,
}

/// What a judge that does not judge answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    round: u64,
    subject: Digest,
    answered: Answered,
}

impl From<Answer> for Input {
    fn from(answer: Answer) -> Self {
        let digest = Digest::ZERO;
        Self::Found {
            round: answer.round,
            subject: answer.subject,
            result: Ok(Finding {
                answered: answer.answered,
                digest,
            }),
        }
    }
}

impl ValidatorCheat {
    /// What it does in place of `wanted`. `other` gives what another validator has committed in a round.
    pub fn instead_of(self, wanted: Output, other: impl FnOnce(u64) -> Option<Digest>) -> Deed {
        match (self, wanted) {
            (Self::Sleeps, _) => Deed::Nothing,
            (_, Output::Judge { round, subject, .. }) => Deed::Tell(Answer {
                round,
                subject,
                answered: if self == Self::Accuses {
                    Answered::WrongOutput
                } else {
                    Answered::Good
                },
            }),
            // Before ballots are shown there is nothing else to copy.
            (Self::Copies, Output::Commit { round, commitment }) => match other(round) {
                Some(commitment) => Deed::Do(Box::new(Output::Commit { round, commitment })),
                None => Deed::Later(Box::new(Output::Commit { round, commitment })),
            },
            // Its state machine is honest and would complain of the ballot that is not its own.
            (Self::Copies, Output::Warn(_)) => Deed::Nothing,
            (_, wanted) => Deed::Do(Box::new(wanted)),
        }
    }
}

/// Refuses cheats where money is real.
pub fn may_cheat(cheats: bool, profile: &NetworkProfile) -> Result<(), Failure> {
    if cheats && !profile.devnet {
        let name = &profile.name;
        return Err(format!(
            "--cheat is for devnets, where money and stake are for tests; profile `{name}` is none"
        )
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Output = Output::Commit {
        round: 7,
        commitment: Digest([1; 32]),
    };

    #[test]
    fn a_copier_commits_what_another_one_committed_and_waits_for_one_that_did() {
        let copied = Digest([2; 32]);
        let deed = ValidatorCheat::Copies.instead_of(COMMIT, |round| {
            assert_eq!(round, 7);
            Some(copied)
        });
        let commitment = copied;
        let round = 7;
        assert_eq!(
            deed,
            Deed::Do(Box::new(Output::Commit { round, commitment }))
        );
        let waits = ValidatorCheat::Copies.instead_of(COMMIT, |_| None);
        assert_eq!(waits, Deed::Later(Box::new(COMMIT)));
    }

    #[test]
    fn all_but_a_sleeper_and_a_copier_do_their_other_duties() {
        for (cheat, does) in [
            (ValidatorCheat::Lazy, true),
            (ValidatorCheat::Accuses, true),
            (ValidatorCheat::Sleeps, false),
        ] {
            let deed = cheat.instead_of(COMMIT, |_| Some(Digest([2; 32])));
            assert_eq!(deed == Deed::Do(Box::new(COMMIT)), does, "{cheat:?}");
        }
    }

    #[test]
    fn every_cheat_of_up_is_of_one_role() {
        for cheat in Cheat::value_variants() {
            let roles = [
                cheat.of_provider().is_some(),
                cheat.of_router().is_some(),
                cheat.of_validator().is_some(),
            ];
            assert_eq!(roles.iter().filter(|is| **is).count(), 1, "{cheat:?}");
        }
    }

    #[test]
    fn cheats_are_refused_where_money_is_real() {
        let profile = |name| {
            let text = NetworkProfile::builtin_text(name).expect("built in");
            NetworkProfile::parse(text).expect("valid")
        };
        assert!(may_cheat(true, &profile("stoa")).is_ok());
        let mut real = profile("stoa");
        real.devnet = false;
        assert!(may_cheat(false, &real).is_ok());
        let refused = may_cheat(true, &real).expect_err("money is real");
        assert!(refused.to_string().contains("for devnets"), "{refused}");
    }
}
