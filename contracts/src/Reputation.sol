// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {IReputation, Standing} from "./interfaces/IReputation.sol";
import {ReputationErrors as Errors, ReputationEvents as Events} from "./libraries/ReputationLib.sol";

/// @title Reputation of providers
/// @notice See IReputation.
contract Reputation is IReputation {
    using Checkpoints for Checkpoints.Trace160;

    uint32 private constant FULL = 1_000_000;
    uint32 private constant START = 500_000;
    uint32 private constant PROVEN = 200;

    uint16 private immutable MOST;
    uint16 private immutable LEAST;
    uint32 private immutable FIRST_JOBS;

    /// @notice May name the writer and its own successor.
    address public admin;
    /// @notice The only one that may write; zero until set.
    address public writer;
    /// @dev By the newest round when it was written: the last standing of that time, packed. Zero is no standing, for one that is stored
    /// has a verified outcome.
    mapping(address provider => Checkpoints.Trace160) private _history;

    /// @param mostBps Share of jobs audited of a provider without record.
    /// @param leastBps Share of a provider with full reputation; above zero and not above the other.
    /// @param firstJobs Jobs of each provider audited in full before.
    /// @param firstAdmin The first admin.
    constructor(uint16 mostBps, uint16 leastBps, uint32 firstJobs, address firstAdmin) {
        if (mostBps > 10_000 || leastBps == 0 || leastBps > mostBps) revert Errors.BadRates(mostBps, leastBps);
        MOST = mostBps;
        LEAST = leastBps;
        FIRST_JOBS = firstJobs;
        admin = firstAdmin;
        emit Events.AdminSet(firstAdmin);
    }

    modifier onlyAdmin() {
        if (msg.sender != admin) revert Errors.NotAllowed(msg.sender);
        _;
    }

    /// @inheritdoc IReputation
    function good(address provider, uint64 round) external {
        uint32 r = standingOf(provider).reputation;
        _mark(provider, round, r + (FULL - r) / 64);
    }

    /// @inheritdoc IReputation
    function bad(address provider, uint64 round) external {
        uint32 r = standingOf(provider).reputation;
        _mark(provider, round, r - r / 8);
    }

    /// @inheritdoc IReputation
    function fraud(address provider, uint64 round) external {
        _mark(provider, round, 0);
    }

    /// @inheritdoc IReputation
    function setWriter(address newWriter) external onlyAdmin {
        writer = newWriter;
        emit Events.WriterSet(newWriter);
    }

    /// @inheritdoc IReputation
    function setAdmin(address newAdmin) external onlyAdmin {
        admin = newAdmin;
        emit Events.AdminSet(newAdmin);
    }

    /// @inheritdoc IReputation
    function standingOf(address provider) public view returns (Standing memory) {
        return _unpacked(_history[provider].latest());
    }

    /// @inheritdoc IReputation
    function standingAt(address provider, uint64 round) public view returns (Standing memory) {
        return _unpacked(round == 0 ? 0 : _history[provider].upperLookupRecent(round - 1));
    }

    /// @inheritdoc IReputation
    function audits(address provider, uint64 round, bytes32 beacon, bytes32 subject)
        external
        view
        returns (bool drawn, bool first)
    {
        Standing memory standing = standingAt(provider, round);
        drawn = uint256(keccak256(abi.encode(beacon, subject))) % 10_000 < rateOf(standing);
        first = standing.verified < FIRST_JOBS;
    }

    /// @inheritdoc IReputation
    function rateOf(Standing memory standing) public view returns (uint16) {
        uint32 r = standing.reputation > FULL ? FULL : standing.reputation;
        if (standing.verified < PROVEN || r <= START) return MOST;
        return MOST - uint16(uint256(MOST - LEAST) * (r - START) / (FULL - START));
    }

    /// @inheritdoc IReputation
    function sampling() external view returns (uint16 mostBps, uint16 leastBps, uint32 firstJobs) {
        return (MOST, LEAST, FIRST_JOBS);
    }

    function _mark(address provider, uint64 round, uint32 reputation) private {
        if (msg.sender != writer) revert Errors.NotAllowed(msg.sender);
        Checkpoints.Trace160 storage history = _history[provider];
        uint32 verified = standingOf(provider).verified;
        if (verified != type(uint32).max) ++verified;
        (bool known, uint96 newest,) = history.latestCheckpoint();
        // Another writer may count rounds from one again; what is known stays in order.
        history.push(known && newest > round ? newest : round, uint160(reputation) << 32 | verified);
        emit Events.Marked(provider, reputation, verified);
    }

    function _unpacked(uint160 packed) private pure returns (Standing memory) {
        return packed == 0 ? Standing(START, 0) : Standing(uint32(packed >> 32), uint32(packed));
    }
}
