//! What was checked, and what came of it.

use std::fmt;

/// What came of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It is false, and why.
    False(String),
    /// It cannot be known from what is at hand, and what would be needed.
    NotChecked(String),
}

/// One named check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What is claimed.
    pub claim: &'static str,
    /// What came of it.
    pub outcome: Outcome,
}

/// All checks in the order they were made, and whom they are about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whom and what the receipt names. A signature only proves that the holder of a key signed: whose key it is, the reader compares.
    pub about: Vec<(&'static str, String)>,
    /// The checks; no claim stands here twice.
    pub checks: Vec<Check>,
}

impl Report {
    /// Records a claim that either holds or is false for the reason given. It takes the place of the same claim not checked before; what
    /// was found false stays false.
    pub fn check(&mut self, claim: &'static str, result: Result<(), String>) {
        let outcome = result.map_or_else(Outcome::False, |()| Outcome::Holds);
        match self.checks.iter_mut().find(|check| check.claim == claim) {
            Some(Check {
                outcome: Outcome::False(_),
                ..
            }) => {}
            Some(check) => check.outcome = outcome,
            None => self.checks.push(Check { claim, outcome }),
        }
    }

    /// Records a claim that cannot be judged, unless something was said of it before.
    pub fn not_checked(&mut self, claim: &'static str, needed: impl Into<String>) {
        if self.checks.iter().all(|check| check.claim != claim) {
            self.checks.push(Check {
                claim,
                outcome: Outcome::NotChecked(needed.into()),
            });
        }
    }

    /// The first false claim.
    pub fn first_false(&self) -> Option<&Check> {
        self.checks
            .iter()
            .find(|check| matches!(check.outcome, Outcome::False(_)))
    }

    /// Whether nothing is false.
    pub fn holds(&self) -> bool {
        self.first_false().is_none()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, value) in &self.about {
            writeln!(f, "{what:<12} {value}")?;
        }
        for Check { claim, outcome } in &self.checks {
            match outcome {
                Outcome::Holds => writeln!(f, "holds        {claim}")?,
                Outcome::False(reason) => writeln!(f, "FALSE        {claim}: {reason}")?,
                Outcome::NotChecked(needed) => writeln!(f, "not checked  {claim}: {needed}")?,
            }
        }
        Ok(())
    }
}
