// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice A provider's record of verified outcomes; `reputation` in millionths.
struct Standing {
    uint32 reputation;
    uint32 verified;
}

/// @title Reputation of providers
/// @notice Only verified outcomes count. A provider starts at 500,000 of 1,000,000; a good outcome adds a sixty-fourth of what is missing,
/// a bad one takes an eighth, fraud takes all.
interface IReputation {
    /// @notice Only the writer.
    /// @param round The newest round: all validators of a round sample by the standing when it opened.
    function good(address provider, uint64 round) external;

    /// @notice Only the writer.
    function bad(address provider, uint64 round) external;

    /// @notice Only the writer.
    function fraud(address provider, uint64 round) external;

    /// @notice Only the admin names the one writer.
    function setWriter(address writer) external;

    /// @notice Only the admin.
    function setAdmin(address admin) external;

    /// @notice The standing now.
    function standingOf(address provider) external view returns (Standing memory);

    /// @notice The standing when `round` opened.
    function standingAt(address provider, uint64 round) external view returns (Standing memory);

    /// @notice Whether a job of `provider` is audited in `round`: the beacon draws it by the standing when the round opened, or the provider is
    /// so new that it may be one of its first. Which jobs those are is not known here.
    function audits(address provider, uint64 round, bytes32 beacon, bytes32 subject)
        external
        view
        returns (bool drawn, bool first);

    /// @notice Share of jobs audited, in 1/10,000: `mostBps` until 200 verified outcomes or at a reputation of 500,000 or less, then linear
    /// down to `leastBps` at 1,000,000. The first jobs of a devnet are not counted here.
    function rateOf(Standing memory standing) external view returns (uint16);

    /// @notice The share for a provider without record or trust, and for one with full reputation; and how many jobs of each provider are
    /// audited in full before.
    function sampling() external view returns (uint16 mostBps, uint16 leastBps, uint32 firstJobs);
}
