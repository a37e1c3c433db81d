// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IReputation, Standing} from "./interfaces/IReputation.sol";
import {ReputationErrors as Errors, ReputationEvents as Events} from "./libraries/ReputationLib.sol";

/// @title Reputation of providers
/// @notice See IReputation.
contract Reputation is IReputation {
    uint32 private constant FULL = 1_000_000;
    uint32 private constant START = 500_000;
    uint32 private constant PROVEN = 200;

    uint16 private immutable MOST;
    uint16 private immutable LEAST;
    uint32 private immutable FIRST_JOBS;

    /// @dev One slot. `known` tells a provider with reputation zero from one that nobody has seen.
    struct Record {
        Standing now_;
        Standing before;
        uint64 since;
        bool known;
    }

    /// @notice May name the writer and its own successor.
    address public admin;
    /// @notice The only one that may write; zero until set.
    address public writer;
    mapping(address provider => Record) private _records;

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
        uint32 r = _load(provider).now_.reputation;
        _mark(provider, round, r + (FULL - r) / 64);
    }

    /// @inheritdoc IReputation
    function bad(address provider, uint64 round) external {
        uint32 r = _load(provider).now_.reputation;
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
    function standingOf(address provider) external view returns (Standing memory) {
        return _load(provider).now_;
    }

    /// @inheritdoc IReputation
    function standingAt(address provider, uint64 round) external view returns (Standing memory) {
        Record memory record = _load(provider);
        if (round < record.since) revert Errors.TooOld(round, record.since);
        return round == record.since ? record.before : record.now_;
    }

    /// @inheritdoc IReputation
    function rateOf(Standing memory standing) external view returns (uint16) {
        uint32 r = standing.reputation > FULL ? FULL : standing.reputation;
        if (standing.verified < PROVEN || r <= START) return MOST;
        return MOST - uint16(uint256(MOST - LEAST) * (r - START) / (FULL - START));
    }

    /// @inheritdoc IReputation
    function sampling() external view returns (uint16 mostBps, uint16 leastBps, uint32 firstJobs) {
        return (MOST, LEAST, FIRST_JOBS);
    }

    function _load(address provider) private view returns (Record memory record) {
        record = _records[provider];
        if (!record.known) record = Record(Standing(START, 0), Standing(START, 0), 0, true);
    }

    function _mark(address provider, uint64 round, uint32 reputation) private {
        if (msg.sender != writer) revert Errors.NotAllowed(msg.sender);
        Record memory record = _load(provider);
        if (round > record.since) (record.before, record.since) = (record.now_, round);
        uint32 verified = record.now_.verified;
        record.now_ = Standing(reputation, verified == type(uint32).max ? verified : verified + 1);
        _records[provider] = record;
        emit Events.Marked(provider, reputation, record.now_.verified);
    }
}
