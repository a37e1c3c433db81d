// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Reputation} from "../src/Reputation.sol";
import {IVerdict} from "../src/interfaces/IVerdict.sol";
import {AuditLib} from "../src/libraries/AuditLib.sol";
import {
    Evidence,
    PanelVerdictErrors as Errors,
    PanelVerdictEvents as Events,
    Vote
} from "../src/libraries/PanelVerdictLib.sol";
import {Place} from "../src/libraries/PlaceLib.sol";
import {Receipt} from "../src/libraries/ReceiptLib.sol";
import {StakeRegistryErrors} from "../src/libraries/StakeRegistryLib.sol";
import {AuditMarket} from "./utils/AuditMarket.sol";
import {Ballots, Said} from "./utils/Ballots.sol";

/// @notice What an outage, a plant, a job that nobody drew or a late punishment must not cost.
contract AuditFairnessTest is AuditMarket {
    /// @notice One round over `count` jobs of one post, on all of which each seat says the same.
    function many(uint256 count, uint8[3] memory says) internal returns (Evidence[] memory e, Vote[][] memory all) {
        Receipt[] memory jobs = new Receipt[](count);
        for (uint256 i; i < count; ++i) {
            jobs[i] = receipt(posts.length * 100 + i);
        }
        (bytes32 pending,,) = vault.pendingOf(router);
        Place[] memory places = postJobs(jobs, pending == 0 ? keccak256(abi.encode(posts.length)) : bytes32(0));
        uint64 round = draw();
        e = new Evidence[](count);
        for (uint256 i; i < count; ++i) {
            e[i] = Evidence(round, abi.encode(jobs[i]), signed(jobs[i]), places[i]);
        }
        Said[][3] memory said;
        for (uint256 i; i < 3; ++i) {
            said[i] = new Said[](says[i] == SILENT ? 0 : count);
            for (uint256 j; j < said[i].length; ++j) {
                said[i][j] = Said(subjectOf(e[j]), says[i], 0);
            }
            commit(round, seats[i], Ballots.root(said[i]));
        }
        for (uint256 i; i < 3; ++i) {
            unseal(round, seats[i], Ballots.root(said[i]));
        }
        all = new Vote[][](count);
        for (uint256 j; j < count; ++j) {
            all[j] = voted(e[j], said, says);
        }
    }

    function voted(Evidence memory e, Said[][3] memory said, uint8[3] memory says)
        internal
        view
        returns (Vote[] memory all)
    {
        uint256 count;
        for (uint256 i; i < 3; ++i) {
            if (says[i] != SILENT) ++count;
        }
        all = new Vote[](count);
        count = 0;
        for (uint256 i; i < 3; ++i) {
            if (says[i] == SILENT) continue;
            all[count++] = Vote(seats[i], says[i], 0, Ballots.proof(said[i], subjectOf(e)));
        }
    }

    function ruleAll(Evidence[] memory e, Vote[][] memory all) internal {
        for (uint256 i; i < e.length; ++i) {
            court.rule(e[i], all[i]);
        }
    }

    // -------------------------------------------------------------------------------------------------------------- outages

    function test_a_router_that_is_away_pays_once_for_all_jobs_of_a_round_and_each_is_reversed() public {
        (Evidence[] memory e, Vote[][] memory all) = many(6, [WITHHELD, WITHHELD, WITHHELD]);
        ruleAll(e, all);
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        for (uint256 i; i < 6; ++i) {
            vm.assertTrue(court.isReversed(subjectOf(e[i])), "reversed");
        }
        (e, all) = many(2, [WITHHELD, WITHHELD, WITHHELD]);
        ruleAll(e, all);
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100 * 85 / 100, "again, after it was convicted");
    }

    function test_rounds_that_were_open_when_a_router_was_convicted_are_the_same_outage() public {
        (Evidence[] memory e, Vote[][] memory all) = many(1, [WITHHELD, WITHHELD, WITHHELD]);
        (Evidence[] memory later, Vote[][] memory laterAll) = many(1, [WITHHELD, WITHHELD, WITHHELD]);
        ruleAll(e, all);
        ruleAll(later, laterAll);
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100 * 95 / 100);
        (uint32 count,) = court.repeatsOf(router, WITHHELD);
        vm.assertEq(count, 1);
    }

    function test_a_validator_that_is_away_after_its_ballot_pays_once_for_all_jobs_of_a_round() public {
        (Evidence[] memory e, Vote[][] memory all) = many(5, [GOOD, GOOD, SILENT]);
        ruleAll(e, all);
        pass(ANSWER);
        for (uint256 i; i < 5; ++i) {
            court.punishSilence(e[i].round, subjectOf(e[i]), seats[2]);
            (uint8 seen,) = court.seenOf(e[i].round, subjectOf(e[i]));
            vm.assertEq(seen, 7, "all were seen");
        }
        vm.assertEq(stakeOf(3, seats[2]), STAKE * 95 / 100);
    }

    function test_who_does_not_reveal_loses_its_seat_with_the_draw() public {
        many(1, [GOOD, GOOD, GOOD]);
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(999);
        postJobs(jobs, 0);
        pass(1);
        uint64 round = rounds.open();
        pass(1);
        reveal(seats[0]);
        reveal(seats[2]);
        pass(10);
        rounds.draw();
        vm.assertEq(rounds.validators().length, 2);
        // It takes its seat again; a punishment that comes later takes its stake, and no seat a second time.
        bytes32 tip = link(seats[1], revealed[seats[1]]);
        join(seats[1], tip);
        court.punishReveal(round, seats[1]);
        vm.assertEq(rounds.validators().length, 3);
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 99 / 100);
        bytes32 fault = keccak256(abi.encode(uint8(16), seats[1], keccak256(abi.encode(round))));
        vm.expectRevert(abi.encodeWithSelector(StakeRegistryErrors.AlreadySlashed.selector, fault));
        court.punishReveal(round, seats[1]);
    }

    function test_what_nobody_did_is_nobodys_fault() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        postJobs(jobs, 0);
        pass(1);
        uint64 round = rounds.open();
        pass(3600);
        rounds.draw();
        vm.assertEq(rounds.validators().length, 3, "all keep their seats");
        vm.expectRevert(abi.encodeWithSelector(Errors.NobodyDid.selector, round));
        court.punishReveal(round, seats[0]);
        pass(50);
        vm.expectRevert(abi.encodeWithSelector(Errors.NobodyDid.selector, round));
        court.punishBallot(round, seats[0]);
    }

    // ---------------------------------------------------------------------------------------------------------------- plants

    function plantIn(Evidence memory e, bytes32 job) internal {
        bytes32 digest = AuditLib.plantDigest(block.chainid, address(rounds), job);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ACCOUNT_KEY, digest);
        rounds.namePlant(e.round, job, account, SALT, abi.encodePacked(r, s, v));
    }

    function test_who_finds_a_plant_does_not_pay_when_two_call_it_good() public {
        bytes32 job = receipt(9).jobId;
        vm.prank(named("planter"));
        rounds.plant(AuditLib.plantCommitment(job, account, SALT));
        (Evidence memory e, bytes32 subject) = judged(9, [WRONG, GOOD, GOOD]);
        plantIn(e, job);
        vm.expectEmit();
        emit IVerdict.Ruled(e.round, subject, GOOD, true);
        court.rule(e, votes(subject, [WRONG, GOOD, GOOD]));
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(stakeOf(3, seats[i]), STAKE, "nobody pays for what is not known");
        }
        vm.assertEq(reputation.standingOf(provider).verified, 0, "no reputation for a false answer");
        vm.assertEq(stakes.owed(provider), 0);
    }

    function test_who_shows_late_that_it_found_a_plant_does_not_pay_either() public {
        bytes32 job = receipt(9).jobId;
        vm.prank(named("planter"));
        rounds.plant(AuditLib.plantCommitment(job, account, SALT));
        (Evidence memory e, bytes32 subject) = judged(9, [WRONG, GOOD, GOOD]);
        plantIn(e, job);
        Vote[] memory two = new Vote[](2);
        (two[0], two[1]) = (vote(seats[1], subject, GOOD), vote(seats[2], subject, GOOD));
        court.rule(e, two);
        court.show(e.round, subject, vote(seats[0], subject, WRONG), false);
        vm.assertEq(stakeOf(3, seats[0]), STAKE);
    }

    function test_a_plant_named_too_late_changes_no_ruling_and_one_that_is_early_enough_shields() public {
        bytes32[2] memory jobs = [receipt(9).jobId, receipt(8).jobId];
        for (uint256 i; i < 2; ++i) {
            vm.prank(named("planter"));
            rounds.plant(AuditLib.plantCommitment(jobs[i], account, SALT));
        }
        (Evidence memory e, bytes32 subject) = judged(9, [WRONG, WRONG, WRONG]);
        pass(10);
        court.rule(e, votes(subject, [WRONG, WRONG, WRONG]));
        uint128 left = stakeOf(1, provider);
        vm.assertTrue(left < STAKE, "a plant that is not named is a wrong answer");
        plantIn(e, jobs[0]);
        vm.assertTrue(rounds.isPlant(e.round, jobs[0], account), "a plant");
        vm.expectRevert(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.rule(e, votes(subject, [WRONG, WRONG, WRONG]));
        (,, bool plant) = court.rulingOf(e.round, subject);
        vm.assertTrue(!plant, "no plant");
        (e, subject) = judged(8, [WRONG, WRONG, WRONG]);
        pass(10);
        plantIn(e, jobs[1]);
        court.rule(e, votes(subject, [WRONG, WRONG, WRONG]));
        vm.assertEq(stakeOf(1, provider), left);
    }

    // --------------------------------------------------------------------------------------------------------------- rewards

    function test_what_nobody_can_check_is_not_rewarded() public {
        uint8[2] memory kinds = [WITHHELD, FORGED];
        for (uint256 i; i < 2; ++i) {
            (Evidence memory e, bytes32 subject) = judged(i, [kinds[i], kinds[i], kinds[i]]);
            court.rule(e, votes(subject, [kinds[i], kinds[i], kinds[i]]));
            for (uint256 j; j < 3; ++j) {
                vm.assertEq(stakes.owed(seats[j]), 0);
            }
        }
        vm.assertEq(stakeOf(2, router), 0);
    }

    function test_a_validator_that_cannot_judge_says_so_at_no_cost_and_rules_nothing() public {
        (Evidence memory e, bytes32 subject) = judged(1, [UNABLE, UNABLE, GOOD]);
        vm.expectRevert(abi.encodeWithSelector(Errors.NoMajority.selector, 2));
        court.rule(e, votes(subject, [UNABLE, UNABLE, GOOD]));
        (e, subject) = judged(2, [UNABLE, GOOD, GOOD]);
        vm.expectEmit();
        emit Events.Differed(subject, seats[0], UNABLE);
        court.rule(e, votes(subject, [UNABLE, GOOD, GOOD]));
        vm.assertEq(stakeOf(3, seats[0]), STAKE);
    }
}

/// @notice Three of ten jobs are drawn.
abstract contract Sampled is AuditMarket {
    function firstJobs() internal pure virtual returns (uint32);

    function rates() internal override returns (Reputation) {
        return new Reputation(3000, 50, firstJobs(), admin);
    }

    /// @notice A judged job that the beacon drew, or did not.
    function sampled(bool drawn, uint8[3] memory says) internal returns (Evidence memory e, bytes32 subject) {
        for (uint256 tried; tried < 25; ++tried) {
            (e, subject) = judged(posts.length, says);
            if (isDrawn(e.round, subject) == drawn) return (e, subject);
        }
        revert("no such job");
    }

    function isDrawn(uint64 round, bytes32 subject) internal view returns (bool drawn) {
        (drawn,) = reputation.audits(provider, round, rounds.roundOf(round).beacon, subject);
        bytes32 lot = keccak256(abi.encode(rounds.roundOf(round).beacon, subject));
        vm.assertEq(drawn, uint256(lot) % 10_000 < 3000);
    }

}

contract AuditSamplingTest is Sampled {
    function firstJobs() internal pure override returns (uint32) {
        return 0;
    }

    function test_nobody_rules_on_a_job_that_the_beacon_did_not_draw() public {
        (Evidence memory e, bytes32 subject) = sampled(false, [WRONG, WRONG, SILENT]);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAudited.selector, subject));
        court.rule(e, votes(subject, [WRONG, WRONG, SILENT]));
        (e, subject) = sampled(true, [WRONG, WRONG, SILENT]);
        court.rule(e, votes(subject, [WRONG, WRONG, SILENT]));
        vm.assertEq(stakeOf(1, provider), STAKE * 3 / 4);
        pass(ANSWER);
        court.punishSilence(e.round, subject, seats[2]);
        vm.assertEq(stakeOf(3, seats[2]), STAKE * 95 / 100);
    }

}

contract AuditFirstJobsTest is Sampled {
    function firstJobs() internal pure override returns (uint32) {
        return 20;
    }

    function test_silence_about_a_first_job_that_was_not_drawn_costs_nothing() public {
        (Evidence memory e, bytes32 subject) = sampled(false, [GOOD, GOOD, SILENT]);
        court.rule(e, votes(subject, [GOOD, GOOD, SILENT]));
        pass(ANSWER);
        court.punishSilence(e.round, subject, seats[2]);
        vm.assertEq(stakeOf(3, seats[2]), STAKE);
        (uint8 seen,) = court.seenOf(e.round, subject);
        vm.assertEq(seen, 7, "and is not asked again");
    }
}
