// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Claim, ClaimState} from "../../src/interfaces/IDeliveryClaims.sol";
import {Ticket} from "../../src/libraries/TicketLib.sol";
import {DeliveryMarket} from "../utils/DeliveryMarket.sol";

/// @notice Jobs, claims, answers and punishments at random: a provider that is there once a day and one that goes for days, a router that lies
/// when it likes. Nothing it does may revert.
contract DeliveryHandler is DeliveryMarket {
    uint256 internal constant SLEEPER_KEY = 0x51ee9;

    struct Job {
        Ticket ticket;
        bytes32 id;
        bool delivered;
    }

    address public sleeper;
    Job[] internal jobs;
    uint64[] internal faults;
    uint256 public open;
    uint256 public given;
    uint256 public lies;

    function setUp() public override {
        super.setUp();
        sleeper = vm.addr(SLEEPER_KEY);
        bond(sleeper, PROVIDER, STAKE);
    }

    // ----------------------------------------------------------------------------------------------------------------- steps

    function order(uint256 seed, bool bySleeper, bool delivered) external {
        if (jobs.length >= 40) return;
        Ticket memory t = ticket(jobs.length);
        if (bySleeper) t.provider = sleeper;
        t.deadline += uint64(bound(seed, 0, 3600)) * 1000;
        jobs.push(Job(t, idOf(t), delivered));
    }

    function claimOne(uint256 seed, bool byRouter) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        uint256 nowMs = block.timestamp * 1000;
        bool due = nowMs > job.ticket.deadline && nowMs <= job.ticket.deadline + DAY * 1000;
        address who = byRouter ? seller : account;
        bytes memory byProvider = signedAs(job.ticket.provider, acceptance(job.ticket));
        vm.prank(who);
        try claims.claim(abi.encode(job.ticket), sign(ROUTER_KEY, job.id), job.ticket.issuedAt, byProvider) {
            vm.assertTrue(due, "claimed before the deadline or too late");
            ++open;
        } catch {
            vm.assertTrue(!due || state(job.id) != ClaimState.None, "a claim in time was refused");
        }
    }

    function answerOne(uint256 seed, bool countersigned) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        ClaimState before = state(job.id);
        bool both = countersigned && job.delivered;
        bool more = both && (before == ClaimState.Answered || before == ClaimState.Punished);
        bool may = before == ClaimState.Open || more;
        try this.show(job.ticket, both) {
            vm.assertTrue(may, "an answer to nothing");
            if (both && claims.claimOf(job.id).claimant == seller) ++lies;
            if (before != ClaimState.Open) return;
            --open;
            given += DEPOSIT;
        } catch {
            vm.assertTrue(!may, "an answer was refused");
        }
    }

    function punishOne(uint256 seed) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        Claim memory c = claims.claimOf(job.id);
        bool may = c.state == ClaimState.Open && block.timestamp >= c.claimedAt + DAY;
        uint128 before = stakeOf(PROVIDER, job.ticket.provider);
        try claims.punish(job.id) {
            vm.assertTrue(may, "punished too early");
            --open;
            if (stakeOf(PROVIDER, job.ticket.provider) != before) faults.push(job.ticket.deadline);
        } catch {
            vm.assertTrue(!may, "a punishment was refused");
        }
    }

    function takeBackOne(uint256 seed) external {
        if (jobs.length == 0) return;
        Job storage job = jobs[seed % jobs.length];
        Claim memory c = claims.claimOf(job.id);
        bool may = c.state == ClaimState.Open && block.timestamp >= c.claimedAt + 8 * DAY;
        vm.prank(c.claimant);
        try claims.takeBack(job.id) {
            vm.assertTrue(may, "taken back too early");
            --open;
        } catch {
            vm.assertTrue(!may, "a deposit was kept");
        }
    }

    /// @notice Time goes on, and the honest provider looks once a day.
    function wait_(uint256 seed) external {
        uint256 left = bound(seed, 1, 3 * DAY);
        while (left != 0) {
            uint256 step = left < DAY - 1 ? left : DAY - 1;
            pass(step);
            left -= step;
            look();
        }
    }

    function look() internal {
        for (uint256 i; i < jobs.length; ++i) {
            if (jobs[i].ticket.provider == sleeper || state(jobs[i].id) != ClaimState.Open) continue;
            this.show(jobs[i].ticket, jobs[i].delivered);
            if (jobs[i].delivered && claims.claimOf(jobs[i].id).claimant == seller) ++lies;
            --open;
            given += DEPOSIT;
        }
    }

    function show(Ticket memory t, bool countersigned) external {
        uint256 key = t.provider == sleeper ? SLEEPER_KEY : PROVIDER_KEY;
        answerBy(key, t, countersigned);
    }

    // ---------------------------------------------------------------------------------------------------------------- checks

    function state(bytes32 id) internal view returns (ClaimState) {
        return claims.claimOf(id).state;
    }

    function signedAs(address who, bytes32 digest) internal view returns (bytes memory) {
        return sign(who == sleeper ? SLEEPER_KEY : PROVIDER_KEY, digest);
    }

    function check_deposits_are_conserved() external view {
        vm.assertEq(stoa.balanceOf(address(claims)), open * DEPOSIT, "what is held is the deposits of open claims");
        uint256 out = stoa.balanceOf(provider) + stoa.balanceOf(sleeper);
        vm.assertEq(out, given, "providers have what was given to them");
        uint256 all = stoa.balanceOf(seller) + stoa.balanceOf(account) + out + open * DEPOSIT;
        vm.assertEq(all, 2000 * uint256(DEPOSIT), "no deposit appears or vanishes");
    }

    function check_nobody_honest_pays() external view {
        vm.assertEq(stakeOf(PROVIDER, provider), STAKE, "a provider that is there once a day was slashed");
        if (lies == 0) vm.assertEq(stakeOf(ROUTER, seller), STAKE, "a router that did not lie was slashed");
        else vm.assertTrue(stakeOf(ROUTER, seller) < STAKE, "a router that lied was not");
    }

    function check_faults_are_a_day_apart() external view {
        for (uint256 i; i < faults.length; ++i) {
            for (uint256 j; j < i; ++j) {
                (uint64 a, uint64 b) = (faults[i], faults[j]);
                vm.assertGe(a > b ? a - b : b - a, DAY * 1000, "two faults of one day");
            }
        }
        vm.assertEq(reputation.standingOf(sleeper).verified, faults.length, "one outcome a fault");
    }
}

/// @notice The sentences about claims of non-delivery that hold after every call.
contract DeliveryInvariantTest is DeliveryMarket {
    DeliveryHandler internal market;

    function setUp() public override {
        market = new DeliveryHandler();
        market.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(market);
    }

    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory steps = new bytes4[](6);
        steps[0] = DeliveryHandler.order.selector;
        steps[1] = DeliveryHandler.claimOne.selector;
        steps[2] = DeliveryHandler.answerOne.selector;
        steps[3] = DeliveryHandler.punishOne.selector;
        steps[4] = DeliveryHandler.takeBackOne.selector;
        steps[5] = DeliveryHandler.wait_.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(market), steps);
    }

    function invariant_of_claims() public view {
        market.check_deposits_are_conserved();
        market.check_nobody_honest_pays();
        market.check_faults_are_a_day_apart();
    }
}
