// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditRounds} from "../../src/AuditRounds.sol";
import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {Reputation} from "../../src/Reputation.sol";
import {StakeRegistry} from "../../src/StakeRegistry.sol";
import {StoaToken} from "../../src/StoaToken.sol";
import {Member, Phase, RoundsParams} from "../../src/interfaces/IAuditRounds.sol";
import {IPaymentVault} from "../../src/interfaces/IPaymentVault.sol";
import {Standing} from "../../src/interfaces/IReputation.sol";
import {StakeParams} from "../../src/interfaces/IStakeRegistry.sol";
import {Step} from "../../src/interfaces/IVerdict.sol";
import {AuditLib} from "../../src/libraries/AuditLib.sol";
import {PanelLib} from "../../src/libraries/AuditRoundsLib.sol";
import {Faults} from "../../src/libraries/PanelVerdictLib.sol";
import {Receipt} from "../../src/libraries/ReceiptLib.sol";
import {Proofs} from "./Proofs.sol";

/// @notice Takes proofs as call data, as the contract does.
contract BallotReader {
    function root(bytes32 subject, uint8 outcome, bytes32 found, Step[] calldata proof)
        external
        pure
        returns (bytes32)
    {
        return AuditLib.ballotRoot(subject, outcome, found, proof);
    }
}

/// @notice Proofs about audits: ballots, panels, phases, standings and what a fault costs.
contract AuditProofs is Proofs {
    uint256 internal constant ROUNDS_SLOT = 9;
    uint64 internal constant ROUND = 7;
    uint64 internal constant BALLOT = 40;
    uint64 internal constant UNSEAL = 10;

    BallotReader internal reader;
    Reputation internal reputation;
    AuditRounds internal rounds;

    /// @dev One verdict of a ballot with a way of at most two steps.
    struct Verdict {
        uint8 outcome;
        bytes32 found;
        uint8[2] bits;
        bytes32[2] siblings;
    }

    /// @dev The first slot of a round.
    struct Times {
        uint40 openedAt;
        uint40 drawnAt;
        uint40 ballotsAt;
        uint40 unsealedAt;
        uint32 plantsDue;
        uint32 plantsNamed;
    }

    function setUp() public {
        vm.warp(1_790_000_000);
        reader = new BallotReader();
        reputation = new Reputation(1000, 50, 20, address(this));
        reputation.setWriter(address(this));
        StoaToken stoa = new StoaToken(address(this));
        StakeParams memory p = StakeParams(7 days, 150, 50e6, 100e6, 100e6, 4_096_000, 50, 100_000);
        StakeRegistry stakes = new StakeRegistry(stoa, new ProviderRegistry(), p, address(this));
        RoundsParams memory times = RoundsParams(10, 10, BALLOT, UNSEAL, 10, 500_000, false);
        rounds = new AuditRounds(stakes, IPaymentVault(address(1)), times, 600, address(this));
    }

    // --------------------------------------------------------------------------------------------------------------- ballots

    function rootOf(bytes32 subject, Verdict calldata v, uint256 steps) internal view returns (bytes32) {
        Step[] memory proof = new Step[](steps);
        for (uint256 i; i < steps; ++i) {
            proof[i] = Step(v.bits[i], v.siblings[i]);
        }
        return reader.root(subject, v.outcome, v.found, proof);
    }

    function oneVerdict(bytes32 subject, Verdict calldata a, Verdict calldata b, uint256 one, uint256 other)
        internal
    {
        vm.assume(rootOf(subject, a, one) == rootOf(subject, b, other));
        assert(a.outcome == b.outcome && a.found == b.found);
    }

    /// @notice A1: under one root a subject leads to one verdict. Trees of one, two and four leaves, each with each.
    function check_A1_a_ballot_holds_one_verdict_on_a_subject(
        bytes32 subject,
        Verdict calldata a,
        Verdict calldata b,
        uint8 shape
    ) external {
        if (shape == 0) oneVerdict(subject, a, b, 0, 0);
        else if (shape == 1) oneVerdict(subject, a, b, 1, 1);
        else if (shape == 2) oneVerdict(subject, a, b, 2, 2);
        else if (shape == 3) oneVerdict(subject, a, b, 0, 1);
        else if (shape == 4) oneVerdict(subject, a, b, 1, 2);
    }

    // ---------------------------------------------------------------------------------------------------------------- panels

    /// @notice A2: seats are places of the committee, each of a member with stake, and no two the same; for four members of any stake.
    /// @custom:halmos --loop 24
    function check_A2_seats_are_members_with_stake_and_no_two_the_same(
        uint96[4] calldata weights,
        bytes32 beacon,
        bytes32 subject
    ) external pure {
        Member[] memory members = new Member[](4);
        for (uint256 i; i < 4; ++i) {
            members[i] = Member(address(uint160(i + 1)), weights[i]);
        }
        uint256[] memory seats = PanelLib.draw(members, beacon, subject);
        assert(seats.length <= 3);
        for (uint256 i; i < seats.length; ++i) {
            assert(seats[i] < 4);
            assert(weights[seats[i]] != 0);
            for (uint256 j; j < i; ++j) {
                assert(seats[i] != seats[j]);
            }
        }
    }

    // ---------------------------------------------------------------------------------------------------------------- phases

    function put(Times memory t) internal {
        uint256 word = uint256(t.openedAt) | uint256(t.drawnAt) << 40 | uint256(t.ballotsAt) << 80
            | uint256(t.unsealedAt) << 120 | uint256(1) << 160 | uint256(t.plantsDue) << 192
            | uint256(t.plantsNamed) << 224;
        vm.store(address(rounds), keccak256(abi.encode(uint256(ROUND), ROUNDS_SLOT)), bytes32(word));
    }

    function phaseAt(uint40 time) internal returns (Phase) {
        vm.warp(time);
        return rounds.phase(ROUND);
    }

    /// @notice A3: time alone never takes a round back, whatever is stored of it.
    function check_A3_a_round_only_goes_forward_in_time(Times calldata t, uint40 now_, uint40 later) external {
        vm.assume(now_ <= later);
        put(t);
        assert(phaseAt(now_) <= phaseAt(later));
    }

    /// @notice A3: nor does anything that a call stores: the draw, the last ballot, the last unsealing, a plant that is named.
    function check_A3_no_call_takes_a_round_back(Times memory t, uint40 now_, uint8 call_) external {
        put(t);
        Phase before = phaseAt(now_);
        vm.assume(now_ != 0);
        if (call_ == 0 && before == Phase.Reveal) {
            vm.assume(t.ballotsAt == 0 && t.unsealedAt == 0 && t.plantsNamed == 0);
            t.drawnAt = now_;
        } else if (call_ == 1 && before == Phase.Ballot && t.ballotsAt == 0) {
            vm.assume(t.unsealedAt == 0);
            t.ballotsAt = now_;
        } else if (call_ == 2 && before == Phase.Unseal && t.unsealedAt == 0) {
            t.unsealedAt = now_;
        } else if (call_ == 3 && before == Phase.Plants) {
            vm.assume(t.plantsNamed < t.plantsDue);
            ++t.plantsNamed;
        } else {
            return;
        }
        put(t);
        assert(phaseAt(now_) >= before);
    }

    // ------------------------------------------------------------------------------------------------- standings and faults

    /// @notice A4: the share of jobs audited lies between its bounds, for every standing, and trust only lowers it.
    function check_A4_the_rate_lies_between_its_bounds(Standing calldata standing, uint32 better) external {
        uint16 rate = reputation.rateOf(standing);
        assert(rate >= 50 && rate <= 1000);
        vm.assume(better >= standing.reputation);
        assert(reputation.rateOf(Standing(better, standing.verified)) <= rate);
    }

    /// @notice A5: after any two outcomes reputation is at most full, each outcome counts once, and what a round sampled by stays known.
    function check_A5_outcomes_count_once_and_older_standings_stay(uint8[2] calldata kinds, uint64 first, uint64 second)
        external
    {
        vm.assume(first != 0 && first < second && second < type(uint64).max);
        mark(kinds[0], first);
        Standing memory one = reputation.standingOf(address(1));
        mark(kinds[1], second);
        Standing memory two = reputation.standingOf(address(1));
        assert(one.reputation <= 1_000_000 && two.reputation <= 1_000_000);
        assert(one.verified == 1 && two.verified == 2);
        assert(reputation.standingAt(address(1), first).verified == 0);
        Standing memory then_ = reputation.standingAt(address(1), second);
        assert(then_.verified == 1 && then_.reputation == one.reputation);
        assert(reputation.standingAt(address(1), second + 1).reputation == two.reputation);
    }

    function mark(uint8 kind, uint64 round) internal {
        if (kind == 0) reputation.good(address(1), round);
        else if (kind == 1) reputation.bad(address(1), round);
        else reputation.fraud(address(1), round);
    }

    /// @notice A6: every fault costs something, at most all, and a repeat never less.
    function check_A6_severity_is_a_share_and_never_falls(uint8 kind, uint32 earlier, uint32 more) external {
        uint16 severity = Faults.severity(kind, earlier);
        assert(severity > 0 && severity <= 10_000);
        vm.assume(more >= earlier);
        assert(Faults.severity(kind, more) >= severity);
    }

    /// @notice A7: what a receipt may charge is its cost rounded down, at least one unit with any output, nothing without.
    function check_A7_the_highest_charge_is_the_cost_rounded_down(uint64[2] calldata units, uint64[2] calldata prices)
        external
        pure
    {
        Receipt memory r;
        (r.inputUnits, r.outputUnits, r.inputPrice, r.outputPrice) = (units[0], units[1], prices[0], prices[1]);
        uint256 most = Faults.mostCharge(r);
        assert((most == 0) == (units[1] == 0));
        if (units[1] == 0) return;
        unchecked {
            // Products of two numbers below 2^64 do not overflow; nor does `most`, which is asserted to be below 2^130.
            uint256 cost = uint256(units[0]) * prices[0] + uint256(units[1]) * prices[1];
            assert(most < 1 << 130);
            if (most != 1) assert(most * 1e6 <= cost && cost < (most + 1) * 1e6);
            else assert(cost < 2e6);
        }
    }
}
