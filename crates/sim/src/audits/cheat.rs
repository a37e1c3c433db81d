//! Who cheats, and how.

/// One party's way to cheat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cheat {
    /// Everybody is honest.
    Nobody,
    /// A provider answers with another model.
    SwapModel,
    /// A provider alters every second answer.
    AlterOutput,
    /// A provider counts more tokens than there are.
    Overcount,
    /// A router charges more than counts and prices give.
    Overcharge,
    /// A router posts a job twice.
    DoublePost,
    /// A router gives nobody its leaf files.
    WithholdLeaves,
    /// A router gives nobody the work of its jobs.
    WithholdWork,
    /// A router posts receipts that no provider signed, and keeps their work back.
    Forge,
    /// A router credits itself with more than it did, at the developers' cost.
    OverpaySelf,
    /// A router credits one provider with what another earned.
    DropPay,
    /// A router credits itself with more than it did, and shows nobody the older leaf files that its payout roots are measured by. All
    /// validators have only just come.
    WithholdBase,
    /// A router keeps a reversed charge in its totals, in league with the provider that earned it by cheating.
    KeepReversed,
    /// A router ignores what a developer allotted, and serves it beyond that.
    OverIssue,
    /// A router takes its stake and asks for its seat to be taken as soon as a round covers all it posted, and only then posts roots that credit
    /// itself with more than it did.
    LeaveAndPost,
    /// A router serves two of three validators: it does what it must, and the third must not pay for it.
    ServeSome,
    /// A validator commits to the ballot of another.
    Copy,
    /// A validator does nothing.
    Sleep,
    /// A validator calls everything wrong.
    Accuse,
    /// A validator calls everything good while a provider cheats.
    Lazy,
    /// A validator calls good what it did not look at, and only plants show it.
    Idle,
}

impl Cheat {
    /// All that a small schedule without plants shows.
    pub const ALL: [Self; 20] = [
        Self::Nobody,
        Self::SwapModel,
        Self::AlterOutput,
        Self::Overcount,
        Self::Overcharge,
        Self::DoublePost,
        Self::WithholdLeaves,
        Self::WithholdWork,
        Self::Forge,
        Self::OverpaySelf,
        Self::DropPay,
        Self::WithholdBase,
        Self::KeepReversed,
        Self::OverIssue,
        Self::LeaveAndPost,
        Self::ServeSome,
        Self::Copy,
        Self::Sleep,
        Self::Accuse,
        Self::Lazy,
    ];

    pub(super) const fn is_router(self) -> bool {
        matches!(
            self,
            Self::Overcharge
                | Self::DoublePost
                | Self::WithholdLeaves
                | Self::WithholdWork
                | Self::Forge
                | Self::ServeSome
        ) || self.is_of_sums()
    }

    /// Whether a router cheats in its payout roots and nowhere else.
    pub(super) const fn is_of_sums(self) -> bool {
        self.is_falsifier() || matches!(self, Self::KeepReversed | Self::OverIssue)
    }

    /// Whether a router posts other payout roots than those in its books.
    pub(super) const fn is_falsifier(self) -> bool {
        matches!(
            self,
            Self::OverpaySelf | Self::DropPay | Self::WithholdBase | Self::LeaveAndPost
        )
    }

    /// Whether a router posts what its books do not hold.
    pub(super) const fn is_by_hand(self) -> bool {
        self.is_router() && !self.is_of_sums()
    }

    /// Whether a provider cheats, and so that somebody could look away.
    pub(super) const fn is_provider(self) -> bool {
        matches!(
            self,
            Self::SwapModel | Self::AlterOutput | Self::Overcount | Self::Lazy | Self::KeepReversed
        )
    }

    pub(super) const fn is_validator(self) -> bool {
        matches!(
            self,
            Self::Copy | Self::Sleep | Self::Accuse | Self::Lazy | Self::Idle
        )
    }

    /// Whether it shows only in jobs that are audited.
    pub(super) const fn needs_audit(self) -> bool {
        self.is_provider() || matches!(self, Self::WithholdWork | Self::Forge)
    }
}
