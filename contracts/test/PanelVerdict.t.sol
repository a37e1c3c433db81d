// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PanelVerdict} from "../src/PanelVerdict.sol";
import {Reputation} from "../src/Reputation.sol";
import {IAuditRounds, Phase, RoundsParams} from "../src/interfaces/IAuditRounds.sol";
import {IStakeRegistry} from "../src/interfaces/IStakeRegistry.sol";
import {IVerdict} from "../src/interfaces/IVerdict.sol";
import {Standing} from "../src/interfaces/IReputation.sol";
import {AuditLib} from "../src/libraries/AuditLib.sol";
import {
    Evidence,
    Faults,
    PanelVerdictErrors as Errors,
    PanelVerdictEvents as Events,
    Vote
} from "../src/libraries/PanelVerdictLib.sol";
import {Place, PlaceLib} from "../src/libraries/PlaceLib.sol";
import {Receipt} from "../src/libraries/ReceiptLib.sol";
import {ReputationErrors} from "../src/libraries/ReputationLib.sol";
import {StakeRegistryErrors} from "../src/libraries/StakeRegistryLib.sol";
import {AuditMarket} from "./utils/AuditMarket.sol";
import {Ballots, Said} from "./utils/Ballots.sol";

contract PanelVerdictTest is AuditMarket {
    uint8[3] internal allWrong = [WRONG, WRONG, WRONG];

    function expect(bytes memory data) internal {
        vm.expectRevert(data);
    }

    function first(Vote[] memory all, uint256 count) internal pure returns (Vote[] memory some) {
        some = new Vote[](count);
        for (uint256 i; i < count; ++i) {
            some[i] = all[i];
        }
    }

    // --------------------------------------------------------------------------------------------------------- convictions

    function test_a_wrong_answer_costs_a_quarter_and_all_reputation_and_voids_the_pending_root() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        (bytes32 pending,,) = vault.pendingOf(router);
        vm.assertTrue(pending != 0, "a payout root is pending");
        address winner = seated(e.round, subject)[0];
        vm.expectEmit();
        emit IVerdict.Ruled(e.round, subject, WRONG, false);
        bytes32 id = keccak256(abi.encode(WRONG, provider, subject));
        vm.expectEmit();
        emit Events.Convicted(id, provider, WRONG, 2500);
        vm.expectEmit();
        emit IVerdict.JobReversed(receipt(1).jobId, router, account, 7);
        court.rule(e, votes(subject, allWrong));
        vm.assertEq(stakeOf(1, provider), STAKE * 3 / 4);
        vm.assertEq(stakes.owed(winner), STAKE / 4 * 4 / 10, "the first seat gets the challenger's share");
        vm.assertEq(stakes.owed(account), 0, "nothing was debited, so nobody is compensated");
        vm.assertTrue(stakes.isSlashed(id) && court.isReversed(subject), "slashed and reversed");
        (pending,,) = vault.pendingOf(router);
        vm.assertTrue(pending == 0, "the payout root is void");
        vm.assertEq(reputation.standingOf(provider).reputation, 0);
        vm.assertEq(reputation.standingAt(provider, e.round).reputation, 500_000);
        (uint40 ruledAt, uint8 outcome, bool plant) = court.rulingOf(e.round, subject);
        vm.assertTrue(ruledAt == block.timestamp && outcome == WRONG && !plant, "the ruling is kept");
        expect(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.rule(e, votes(subject, allWrong));
    }

    function test_the_second_conviction_takes_all_and_thirty_days_forgive() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        court.rule(e, votes(subject, allWrong));
        (e, subject) = judged(2, [COUNT, COUNT, COUNT]);
        court.rule(e, votes(subject, [COUNT, COUNT, COUNT]));
        vm.assertEq(stakeOf(1, provider), 0);
        bond(provider, 1, STAKE);
        vm.warp(block.timestamp + 30 days + 1);
        (e, subject) = judged(3, allWrong);
        court.rule(e, votes(subject, allWrong));
        vm.assertEq(stakeOf(1, provider), STAKE * 3 / 4);
        (uint32 count,) = court.repeatsOf(provider, COUNT);
        vm.assertEq(count, 1);
    }

    function test_what_is_claimable_is_compensated_and_not_reversed() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        pass(WINDOW);
        vault.promote(router);
        court.rule(e, votes(subject, allWrong));
        vm.assertTrue(!court.isReversed(subject), "too late to reverse");
        vm.assertEq(stakes.owed(account), STAKE / 4 * 4 / 10);
    }

    function test_a_root_older_than_the_round_stays() public {
        vm.prank(router);
        vault.postBatch(JOBS, 1, keccak256("older"), 0, CONTENT);
        draw();
        posts.push();
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        court.rule(e, votes(subject, allWrong));
        (bytes32 pending,,) = vault.pendingOf(router);
        vm.assertEq(pending, keccak256("older"));
        vm.assertTrue(court.isReversed(subject), "no claimable root covers the job");
    }

    function test_a_ruling_does_not_need_a_pending_root() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        e.place = postJobs(jobs, 0)[0];
        e.round = draw();
        bytes32 subject = subjectOf(e);
        cast(e.round, subject, allWrong);
        court.rule(e, votes(subject, allWrong));
        vm.assertTrue(court.isReversed(subject), "reversed");
    }

    function test_good_answers_earn_reputation() public {
        (Evidence memory e, bytes32 subject) = judged(1, [GOOD, GOOD, GOOD]);
        court.rule(e, votes(subject, [GOOD, GOOD, GOOD]));
        Standing memory standing = reputation.standingOf(provider);
        vm.assertEq(standing.reputation, 507_812);
        vm.assertEq(standing.verified, 1);
        vm.assertEq(stakeOf(1, provider), STAKE);
        vm.assertTrue(!court.isReversed(subject), "paid");
    }

    function test_routers_answer_for_what_they_withhold_or_forge() public {
        (Evidence memory e, bytes32 subject) = judged(1, [WITHHELD, WITHHELD, WITHHELD]);
        court.rule(e, votes(subject, [WITHHELD, WITHHELD, WITHHELD]));
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        (e, subject) = judged(2, [FORGED, GOOD, FORGED]);
        e.providerSignature = "";
        court.rule(e, votes(subject, [FORGED, GOOD, FORGED]));
        vm.assertEq(stakeOf(2, router), 0);
        vm.assertEq(stakeOf(1, provider), STAKE);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(stakeOf(3, seats[i]), STAKE);
        }
    }

    // -------------------------------------------------------------------------------------------------------------- batches

    function batch(uint8[3] memory says) internal returns (uint64 round, bytes32 subject) {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        postJobs(jobs, PAY);
        round = draw();
        subject = AuditLib.batchSubject(router, 1);
        cast(round, subject, says);
    }

    function test_a_payout_root_that_does_not_follow_is_voided_and_takes_the_routers_stake() public {
        (uint64 round, bytes32 subject) = batch([BAD_SUMS, BAD_SUMS, GOOD]);
        expect(abi.encodeWithSelector(PlaceLib.NotCovered.selector, round, router));
        court.ruleBatch(round, router, 2, votes(subject, [BAD_SUMS, BAD_SUMS, GOOD]));
        court.ruleBatch(round, router, 1, votes(subject, [BAD_SUMS, BAD_SUMS, GOOD]));
        vm.assertEq(stakeOf(2, router), 0);
        vm.assertEq(stakeOf(3, seats[2]), STAKE * 95 / 100);
        (bytes32 pending,,) = vault.pendingOf(router);
        vm.assertTrue(pending == 0, "void");
        expect(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.ruleBatch(round, router, 1, votes(subject, [BAD_SUMS, BAD_SUMS, GOOD]));
    }

    function nextBatch(uint256 job, uint8[3] memory says) internal returns (uint8 outcome, bool isPending) {
        return batchOf(job, keccak256(abi.encode(job)), says);
    }

    function batchOf(uint256 job, bytes32 payRoot, uint8[3] memory says)
        internal
        returns (uint8 outcome, bool isPending)
    {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(job);
        postJobs(jobs, payRoot);
        uint64 round = draw();
        (uint64 post,) = vault.head(router);
        bytes32 subject = AuditLib.batchSubject(router, post);
        cast(round, subject, says);
        court.ruleBatch(round, router, post, votes(subject, says));
        (, outcome,) = court.rulingOf(round, subject);
        (bytes32 pending,,) = vault.pendingOf(router);
        isPending = pending != 0;
    }

    function test_a_root_that_is_right_but_for_what_was_reversed_under_way_is_cancelled_and_costs_nothing() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        court.rule(e, votes(subject, allWrong));
        (uint8 outcome, bool isPending) = nextBatch(2, [VOID, VOID, VOID]);
        vm.assertTrue(outcome == VOID && !isPending, "cancelled");
        vm.assertEq(stakeOf(2, router), STAKE, "it could not know");
        // A root that is wrong in another way costs all, also right after a reversal.
        (outcome, isPending) = nextBatch(3, [BAD_SUMS, BAD_SUMS, BAD_SUMS]);
        vm.assertTrue(outcome == BAD_SUMS && !isPending, "void");
        vm.assertEq(stakeOf(2, router), 0);
    }

    function test_a_wrong_root_does_not_stand_because_its_files_were_given_to_one_validator_only() public {
        (uint8 outcome, bool isPending) = nextBatch(1, [BAD_SUMS, WITHHELD, GOOD]);
        vm.assertTrue(outcome == WITHHELD && !isPending, "void");
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        (outcome, isPending) = nextBatch(2, [WITHHELD, UNABLE, VOID]);
        vm.assertTrue(outcome == VOID && !isPending, "cancelled");
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100, "nobody is to blame");
        (outcome,) = nextBatch(3, [WITHHELD, WITHHELD, VOID]);
        vm.assertEq(outcome, WITHHELD);
        (outcome,) = nextBatch(4, [BAD_SUMS, BAD_SUMS, WITHHELD]);
        vm.assertEq(outcome, BAD_SUMS);
        for (uint256 i; i < 3; ++i) {
            vm.assertTrue(stakeOf(3, seats[i]) == STAKE || i == 2, "who got less is not blamed");
        }
    }

    function test_two_who_found_the_sums_wrong_overrule_what_was_only_added_up() public {
        (uint64 round, bytes32 subject) = batch([WITHHELD, BAD_SUMS, BAD_SUMS]);
        Vote[] memory few = votes(subject, [WITHHELD, BAD_SUMS, SILENT]);
        court.ruleBatch(round, router, 1, few);
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        expect(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.ruleBatch(round, router, 1, few);
        (, bool combined) = court.seenOf(round, subject);
        vm.assertTrue(combined, "may be overruled");
        Vote[] memory bad = votes(subject, [SILENT, BAD_SUMS, BAD_SUMS]);
        court.ruleBatch(round, router, 1, bad);
        (, uint8 outcome,) = court.rulingOf(round, subject);
        vm.assertEq(outcome, BAD_SUMS);
        (, combined) = court.seenOf(round, subject);
        vm.assertTrue(!combined, "holds");
        vm.assertEq(stakeOf(2, router), 0);
        expect(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.ruleBatch(round, router, 1, bad);
        court.show(round, subject, vote(seats[0], subject, WITHHELD), false);
        vm.assertEq(stakeOf(3, seats[0]), STAKE);
    }

    function test_who_differs_from_a_ruling_that_no_two_voted_for_pays_nothing() public {
        (uint64 round, bytes32 subject) = batch([VOID, WITHHELD, BAD_SUMS]);
        court.ruleBatch(round, router, 1, votes(subject, [VOID, WITHHELD, SILENT]));
        vm.assertEq(stakeOf(2, router), STAKE);
        court.show(round, subject, vote(seats[2], subject, BAD_SUMS), false);
        // Whichever votes are brought first, it ends the same.
        court.ruleBatch(round, router, 1, votes(subject, [SILENT, WITHHELD, BAD_SUMS]));
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        court.show(round, subject, vote(seats[0], subject, VOID), false);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(stakeOf(3, seats[i]), STAKE, "nobody dissents");
        }
        expect(abi.encodeWithSelector(Errors.AlreadyRuled.selector, subject));
        court.ruleBatch(round, router, 1, votes(subject, [VOID, WITHHELD, SILENT]));
    }

    function test_a_cancelled_root_that_is_posted_again_is_cancelled_again() public {
        uint8[3] memory withheld = [WITHHELD, WITHHELD, WITHHELD];
        (uint8 outcome, bool isPending) = batchOf(1, PAY, withheld);
        vm.assertTrue(outcome == WITHHELD && !isPending, "void");
        (, isPending) = batchOf(2, PAY, withheld);
        vm.assertTrue(!isPending, "void again");
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100 * 85 / 100);
    }

    function test_a_router_that_lost_its_whole_stake_is_ruled_on_and_its_root_cancelled() public {
        allot(named("developer"), router, 1e6);
        (uint8 outcome, bool isPending) = batchOf(1, PAY, [BAD_SUMS, BAD_SUMS, BAD_SUMS]);
        vm.assertEq(stakeOf(2, router), 0);
        (bool left,) = address(rounds).call(abi.encodeCall(rounds.strike, (router)));
        vm.assertTrue(!left && !isPending, "keeps its seat");
        (outcome, isPending) = batchOf(2, keccak256("another"), [BAD_SUMS, BAD_SUMS, BAD_SUMS]);
        vm.assertTrue(outcome == BAD_SUMS && !isPending, "void");
        (outcome, isPending) = batchOf(3, PAY, [WITHHELD, WITHHELD, WITHHELD]);
        vm.assertTrue(outcome == WITHHELD && !isPending, "void too");
    }

    function test_one_vote_on_a_batch_decides_nothing() public {
        (uint64 round, bytes32 subject) = batch([WITHHELD, GOOD, UNABLE]);
        expect(abi.encodeWithSelector(Errors.NoMajority.selector, 2));
        court.ruleBatch(round, router, 1, votes(subject, [WITHHELD, GOOD, UNABLE]));
    }

    function test_a_batch_is_not_ruled_good_or_wrong() public {
        (uint64 round, bytes32 subject) = batch([GOOD, GOOD, GOOD]);
        expect(abi.encodeWithSelector(Errors.WrongSubject.selector, GOOD));
        court.ruleBatch(round, router, 1, votes(subject, [GOOD, GOOD, GOOD]));
    }

    function test_silence_on_a_batch_is_no_fault() public {
        (uint64 round, bytes32 subject) = batch([WITHHELD, WITHHELD, SILENT]);
        court.ruleBatch(round, router, 1, votes(subject, [WITHHELD, WITHHELD, SILENT]));
        vm.assertEq(stakeOf(2, router), STAKE * 95 / 100);
        pass(ANSWER);
        court.punishSilence(round, subject, seats[2]);
        vm.assertEq(stakeOf(3, seats[2]), STAKE);
        (uint8 seen,) = court.seenOf(round, subject);
        vm.assertEq(seen, 7, "and is not asked again");
    }

    // ----------------------------------------------------------------------------------------------------- votes and panels

    function test_a_false_accuser_pays_the_accused() public {
        (Evidence memory e, bytes32 subject) = judged(1, [GOOD, WRONG, GOOD]);
        court.rule(e, votes(subject, [GOOD, WRONG, GOOD]));
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 95 / 100);
        vm.assertEq(stakes.owed(provider), STAKE * 5 / 100 * 4 / 10);
        vm.assertEq(stakeOf(1, provider), STAKE);
    }

    function test_no_ruling_without_two_equal_verdicts_of_the_panel() public {
        (Evidence memory e, bytes32 subject) = judged(1, [WRONG, GOOD, WITHHELD]);
        expect(abi.encodeWithSelector(Errors.NoMajority.selector, 2));
        court.rule(e, votes(subject, [WRONG, GOOD, WITHHELD]));
        (e, subject) = judged(2, allWrong);
        Vote[] memory all = votes(subject, allWrong);
        expect(abi.encodeWithSelector(Errors.NoMajority.selector, 2));
        court.rule(e, first(all, 1));
        expect(abi.encodeWithSelector(Errors.NoMajority.selector, 2));
        court.rule(e, new Vote[](0));
        Vote[] memory many = new Vote[](4);
        expect(abi.encodeWithSelector(Errors.TooManyVotes.selector, 4));
        court.rule(e, many);
        all[1] = vote(seats[0], subject, WRONG);
        expect(abi.encodeWithSelector(Errors.AlreadySeen.selector, seats[0]));
        court.rule(e, all);
        all[1].validator = address(this);
        expect(abi.encodeWithSelector(Errors.NotOnPanel.selector, address(this)));
        court.rule(e, all);
        all[1] = vote(seats[1], subject, GOOD);
        expect(abi.encodeWithSelector(Errors.NotInBallot.selector, seats[1]));
        court.rule(e, all);
    }

    function test_a_ballot_that_was_not_shown_counts_for_nothing() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        e.place = postJobs(jobs, PAY)[0];
        e.round = draw();
        bytes32 subject = subjectOf(e);
        for (uint256 i; i < 3; ++i) {
            commit(e.round, seats[i], Ballots.root(ballot(subject, WRONG)));
        }
        unseal(e.round, seats[0], Ballots.root(ballot(subject, WRONG)));
        unseal(e.round, seats[1], Ballots.root(ballot(subject, WRONG)));
        Vote[] memory all = votes(subject, allWrong);
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, e.round, Phase.Unseal));
        court.rule(e, all);
        pass(10);
        expect(abi.encodeWithSelector(Errors.NoBallot.selector, seats[2]));
        court.rule(e, all);
        court.rule(e, first(all, 2));
        pass(ANSWER);
        expect(abi.encodeWithSelector(Errors.NotSilent.selector, seats[2]));
        court.punishSilence(e.round, subject, seats[2]);
        court.punishBallot(e.round, seats[2]);
        vm.assertEq(stakeOf(3, seats[2]), STAKE * 99 / 100);
        vm.assertEq(rounds.validators().length, 2);
    }

    function test_an_unknown_outcome_is_no_vote() public {
        (Evidence memory e, bytes32 subject) = judged(1, [8, 8, WRONG]);
        expect(abi.encodeWithSelector(Errors.UnknownOutcome.selector, 8));
        court.rule(e, votes(subject, [8, 8, WRONG]));
    }

    function test_leaving_a_vote_out_burns_the_reward_and_the_vote_can_be_shown_later() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        address[] memory order = seated(e.round, subject);
        Vote[] memory two = new Vote[](2);
        (two[0], two[1]) = (vote(order[1], subject, WRONG), vote(order[2], subject, WRONG));
        court.rule(e, two);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(stakes.owed(seats[i]), 0);
        }
        (uint8 seen,) = court.seenOf(e.round, subject);
        vm.assertEq(seen, 6);
        Vote memory left = vote(order[0], subject, WRONG);
        expect(abi.encodeWithSelector(Errors.TooEarly.selector, block.timestamp + ANSWER));
        court.punishSilence(e.round, subject, order[0]);
        court.show(e.round, subject, left, false);
        pass(ANSWER);
        expect(abi.encodeWithSelector(Errors.AlreadySeen.selector, order[0]));
        court.punishSilence(e.round, subject, order[0]);
        expect(abi.encodeWithSelector(Errors.AlreadySeen.selector, order[0]));
        court.show(e.round, subject, left, false);
        vm.assertEq(stakeOf(3, order[0]), STAKE);
    }

    function test_the_first_seat_that_agrees_gets_the_reward() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        e.place = postJobs(jobs, PAY)[0];
        e.round = draw();
        bytes32 subject = subjectOf(e);
        address[] memory order = seated(e.round, subject);
        uint8[3] memory says;
        for (uint256 i; i < 3; ++i) {
            says[i] = seats[i] == order[0] ? GOOD : WRONG;
        }
        cast(e.round, subject, says);
        court.rule(e, votes(subject, says));
        vm.assertEq(stakes.owed(order[0]), 0);
        vm.assertEq(stakes.owed(order[1]), STAKE / 4 * 4 / 10);
        vm.assertEq(stakes.owed(order[2]), 0);
    }

    function test_a_verdict_shown_late_is_punished_when_it_differs() public {
        (Evidence memory e, bytes32 subject) = judged(1, [WRONG, WRONG, GOOD]);
        Vote memory late = vote(seats[2], subject, GOOD);
        expect(abi.encodeWithSelector(Errors.NotRuled.selector, subject));
        court.show(e.round, subject, late, false);
        expect(abi.encodeWithSelector(Errors.NotRuled.selector, subject));
        court.punishSilence(e.round, subject, seats[2]);
        court.rule(e, first(votes(subject, [WRONG, WRONG, GOOD]), 2));
        court.show(e.round, subject, late, false);
        vm.assertEq(stakeOf(3, seats[2]), STAKE * 95 / 100);
    }

    function test_silence_is_punished_after_the_time_to_answer() public {
        (Evidence memory e, bytes32 subject) = judged(1, [WRONG, SILENT, WRONG]);
        court.rule(e, votes(subject, [WRONG, SILENT, WRONG]));
        pass(ANSWER);
        court.punishSilence(e.round, subject, seats[1]);
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 95 / 100);
        expect(abi.encodeWithSelector(Errors.NotOnPanel.selector, address(this)));
        court.punishSilence(e.round, subject, address(this));
    }

    function test_who_got_no_leaf_file_is_excused_by_its_verdict_on_the_batch() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        e.place = postJobs(jobs, PAY)[0];
        e.round = draw();
        bytes32 subject = subjectOf(e);
        bytes32 whole = AuditLib.batchSubject(router, 1);
        for (uint256 i; i < 3; ++i) {
            commit(e.round, seats[i], Ballots.root(i == 1 ? ballot(whole, WITHHELD) : ballot(subject, GOOD)));
        }
        for (uint256 i; i < 3; ++i) {
            unseal(e.round, seats[i], Ballots.root(i == 1 ? ballot(whole, WITHHELD) : ballot(subject, GOOD)));
        }
        court.rule(e, votes(subject, [GOOD, SILENT, GOOD]));
        expect(abi.encodeWithSelector(Errors.NotInBallot.selector, seats[1]));
        court.show(e.round, subject, vote(seats[1], subject, WITHHELD), false);
        court.show(e.round, subject, vote(seats[1], whole, WITHHELD), true);
        pass(ANSWER);
        expect(abi.encodeWithSelector(Errors.AlreadySeen.selector, seats[1]));
        court.punishSilence(e.round, subject, seats[1]);
        vm.assertEq(stakeOf(3, seats[1]), STAKE);
    }

    function test_an_excuse_says_withheld() public {
        (uint64 round, bytes32 whole) = batch([WITHHELD, WITHHELD, GOOD]);
        court.ruleBatch(round, router, 1, first(votes(whole, [WITHHELD, WITHHELD, GOOD]), 2));
        expect(abi.encodeWithSelector(Errors.WrongSubject.selector, GOOD));
        court.show(round, whole, vote(seats[2], whole, GOOD), true);
    }

    // ------------------------------------------------------------------------------------------------------------- receipts

    function test_content_is_judged_only_for_exact_jobs_of_this_network_signed_by_the_provider() public {
        checkRefused(1, 2, abi.encodeWithSelector(Errors.WrongTier.selector, 0));
        checkRefused(2, 3, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        checkRefused(3, 4, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        checkRefused(4, 5, abi.encodeWithSelector(Errors.ForeignReceipt.selector));
        checkRefused(5, 6, abi.encodeWithSelector(Errors.WrongSigner.selector, provider));
        checkRefused(6, 7, abi.encodeWithSelector(Errors.WrongSubject.selector, BAD_SUMS));
        checkRefused(7, 8, abi.encodeWithSelector(Errors.WrongSubject.selector, VOID));
    }

    function checkRefused(uint256 what, uint256 job, bytes memory refused) internal {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(job);
        if (what == 1) jobs[0].tier = 0;
        if (what == 2) jobs[0].chainId += 1;
        if (what == 3) jobs[0].vault = address(this);
        if (what == 4) jobs[0].router = address(this);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        if (what == 5) e.providerSignature[3] ^= 0x01;
        e.place = postJobs(jobs, 0)[0];
        e.round = draw();
        uint8 says = what == 6 ? BAD_SUMS : what == 7 ? VOID : WRONG;
        cast(e.round, subjectOf(e), [says, says, says]);
        expect(refused);
        court.rule(e, votes(subjectOf(e), [says, says, says]));
    }

    function test_a_place_is_a_walk_between_stored_heads() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        Vote[] memory all = votes(subject, allWrong);
        Place memory good = e.place;
        e.place.router = address(this);
        expect(abi.encodeWithSelector(PlaceLib.NotCovered.selector, e.round, address(this)));
        court.rule(e, all);
        e.place = walk(0, 1, 1);
        expect(abi.encodeWithSelector(PlaceLib.BadWalk.selector, 1));
        court.rule(e, all);
        e.place = walk(0, 1, 0);
        e.place.from = 1;
        expect(abi.encodeWithSelector(PlaceLib.NoHead.selector, 2));
        court.rule(e, all);
        e.place = walk(0, 1, 0);
        e.place.posts[0].jobCount += 1;
        vm.expectRevert();
        court.rule(e, all);
        e.place = walk(0, 1, 0);
        e.place.proof = new bytes32[](1);
        expect(abi.encodeWithSelector(PlaceLib.NotInRoot.selector, keccak256(bytes.concat(keccak256(e.receipt)))));
        court.rule(e, all);
        e.place = walk(0, 1, 0);
        Receipt memory changed = receipt(1);
        changed.charge += 1;
        e.receipt = abi.encode(changed);
        expect(abi.encodeWithSelector(PlaceLib.NotInRoot.selector, keccak256(bytes.concat(keccak256(e.receipt)))));
        court.rule(e, all);
        e.receipt = bytes.concat(abi.encode(receipt(1)), hex"00");
        expect(abi.encodeWithSelector(Errors.BadReceipt.selector, 929));
        court.rule(e, all);
        e.receipt = abi.encode(receipt(1));
        e.place = good;
        e.place.router = router;
        court.rule(e, all);
    }

    function test_wrong_posts_lead_to_a_wrong_head() public {
        (Evidence memory e, bytes32 subject) = judged(1, allWrong);
        e.place.posts[0].contentId = keccak256("another");
        bytes32 found = keccak256(
            abi.encode(bytes32(0), e.place.posts[0].jobRoot, e.place.posts[0].jobCount, e.place.posts[0].contentId)
        );
        expect(abi.encodeWithSelector(PlaceLib.WrongHead.selector, found));
        court.rule(e, votes(subject, allWrong));
    }

    function test_a_long_round_is_walked_from_a_checkpoint() public {
        Receipt[] memory jobs = new Receipt[](1);
        for (uint256 i; i < 130; ++i) {
            jobs[0] = receipt(i);
            postJobs(jobs, 0);
        }
        uint64 round = draw();
        Evidence memory e;
        (e.round, e.receipt, e.providerSignature) = (round, abi.encode(receipt(70)), signed(receipt(70)));
        e.place = walk(64, 128, 6);
        bytes32 subject = subjectOf(e);
        cast(round, subject, allWrong);
        e.place = walk(0, 130, 70);
        expect(abi.encodeWithSelector(PlaceLib.BadWalk.selector, 130));
        court.rule(e, votes(subject, allWrong));
        e.place = walk(65, 128, 5);
        expect(abi.encodeWithSelector(PlaceLib.NoHead.selector, 65));
        court.rule(e, votes(subject, allWrong));
        e.place = walk(64, 128, 6);
        court.rule(e, votes(subject, allWrong));
        vm.assertEq(stakeOf(1, provider), STAKE * 3 / 4);
    }

    // --------------------------------------------------------------------------------------------------------------- plants

    function test_a_plant_costs_only_who_called_it_good() public {
        bytes32 job = receipt(9).jobId;
        vm.prank(named("planter"));
        rounds.plant(AuditLib.plantCommitment(job, account, SALT));
        (Evidence memory e, bytes32 subject) = judged(9, [WRONG, GOOD, WRONG]);
        bytes32 digest = AuditLib.plantDigest(block.chainid, address(rounds), job);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(ACCOUNT_KEY, digest);
        rounds.namePlant(e.round, job, account, SALT, abi.encodePacked(r, s, v));
        vm.expectEmit();
        emit IVerdict.Ruled(e.round, subject, WRONG, true);
        court.rule(e, votes(subject, [WRONG, GOOD, WRONG]));
        vm.assertEq(stakeOf(1, provider), STAKE);
        vm.assertEq(stakeOf(2, router), STAKE);
        vm.assertEq(stakeOf(3, seats[0]), STAKE);
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 95 / 100);
        vm.assertEq(stakeOf(3, seats[2]), STAKE);
        vm.assertEq(reputation.standingOf(provider).reputation, 500_000);
        vm.assertTrue(!court.isReversed(subject), "the planter pays for its plant");
    }

    // --------------------------------------------------------------------------------------------------------------- duties

    function test_missed_reveals_cost_one_percent_and_the_seat() public {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        postJobs(jobs, PAY);
        pass(1);
        uint64 round = rounds.open();
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, round, Phase.Reveal));
        court.punishReveal(round, seats[0]);
        pass(1);
        reveal(seats[0]);
        pass(10);
        rounds.draw();
        expect(abi.encodeWithSelector(Errors.DutyDone.selector, round, seats[0]));
        court.punishReveal(round, seats[0]);
        court.punishReveal(round, seats[1]);
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 99 / 100);
        bytes32 id = keccak256(abi.encode(Faults.MISSED_REVEAL, seats[1], keccak256(abi.encode(round))));
        expect(abi.encodeWithSelector(StakeRegistryErrors.AlreadySlashed.selector, id));
        court.punishReveal(round, seats[1]);
        vm.assertEq(rounds.validators().length, 1);
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, round, Phase.Ballot));
        court.punishBallot(round, seats[1]);
        commit(round, seats[0], 0);
        pass(40);
        unseal(round, seats[0], 0);
        pass(10);
        court.punishBallot(round, seats[1]);
        vm.assertEq(stakeOf(3, seats[1]), STAKE * 99 / 100 * 99 / 100, "the round opened before it was convicted");
        pass(600_000);
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, round, Phase.Closed));
        court.punishBallot(round, seats[2]);
    }

    // ------------------------------------------------------------------------------------------------ faults without a panel

    function posted(Receipt memory r) internal returns (Evidence memory e) {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = r;
        (e.receipt, e.place) = (abi.encode(r), postJobs(jobs, 0)[0]);
        e.round = draw();
    }

    function test_overcharge_is_what_anyone_can_recompute() public {
        Receipt memory r = receipt(1);
        Evidence memory e = posted(r);
        expect(abi.encodeWithSelector(Errors.NotOvercharged.selector, 7, 7));
        court.proveOvercharge(e);
        r = receipt(2);
        r.charge = 8;
        e = posted(r);
        court.proveOvercharge(e);
        vm.assertEq(stakeOf(2, router), 0);
        bytes32 subject = subjectOf(e);
        vm.assertTrue(court.isReversed(subject), "reversed");
        expect(
            abi.encodeWithSelector(
                StakeRegistryErrors.AlreadySlashed.selector, keccak256(abi.encode(Faults.OVERCHARGE, router, subject))
            )
        );
        court.proveOvercharge(e);
        pass(600_000);
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, e.round, Phase.Closed));
        court.proveOvercharge(e);
    }

    function test_nothing_is_owed_without_output_and_at_least_one_unit_with() public {
        Receipt memory r = receipt(1);
        (r.outputUnits, r.charge) = (0, 1);
        court.proveOvercharge(posted(r));
        vm.assertEq(stakeOf(2, router), 0);
        bond(router, 2, STAKE);
        r = receipt(2);
        (r.inputPrice, r.outputPrice, r.charge) = (0, 0, 1);
        Evidence memory e = posted(r);
        expect(abi.encodeWithSelector(Errors.NotOvercharged.selector, 1, 1));
        court.proveOvercharge(e);
    }

    function test_two_leaves_for_one_job_take_the_routers_stake() public {
        Receipt memory r = receipt(1);
        Evidence memory a = posted(r);
        expect(abi.encodeWithSelector(Errors.NotDouble.selector));
        court.proveDoublePost(a, a);
        Evidence memory other = posted(receipt(2));
        expect(abi.encodeWithSelector(Errors.NotDouble.selector));
        court.proveDoublePost(a, other);
        Evidence memory b = posted(r);
        court.proveDoublePost(a, b);
        vm.assertEq(stakeOf(2, router), 0);
        vm.assertTrue(court.isReversed(subjectOf(b)), "the second leaf is reversed");
    }

    /// @notice One post of `count` leaves, of which `a` and `b` are the same; the evidence of both.
    function twice(uint256 count, uint256 a, uint256 b) internal returns (Evidence memory one, Evidence memory other) {
        Receipt[] memory jobs = new Receipt[](count);
        for (uint256 i; i < count; ++i) {
            jobs[i] = receipt(posts.length * 100 + (i == b ? a : i));
        }
        Place[] memory places = postJobs(jobs, 0);
        (one.receipt, one.place) = (abi.encode(jobs[a]), places[a]);
        (other.receipt, other.place) = (abi.encode(jobs[b]), places[b]);
        one.round = other.round = draw();
    }

    function test_one_leaf_at_two_positions_of_a_post_takes_the_routers_stake() public {
        // Beside each other both have the same proof; in other branches they differ.
        uint256[2][3] memory at = [[uint256(0), 1], [uint256(0), 3], [uint256(1), 4]];
        for (uint256 i; i < at.length; ++i) {
            (Evidence memory a, Evidence memory b) = twice(5, at[i][0], at[i][1]);
            court.proveDoublePost(a, b);
            vm.assertEq(stakeOf(2, router), 0);
            bond(router, 2, STAKE);
        }
    }

    function test_a_whole_branch_posted_twice_is_seen_in_each_of_its_leaves() public {
        Receipt[] memory jobs = new Receipt[](4);
        for (uint256 i; i < 4; ++i) {
            jobs[i] = receipt(i % 2);
        }
        Evidence memory e;
        (e.receipt, e.place) = (abi.encode(jobs[0]), postJobs(jobs, 0)[0]);
        e.round = draw();
        court.proveDoublePost(e, e);
        vm.assertEq(stakeOf(2, router), 0);
    }

    function test_a_leaf_that_stands_once_is_no_double_whatever_the_tree() public {
        for (uint256 count = 1; count < 8; ++count) {
            Receipt[] memory jobs = new Receipt[](count);
            for (uint256 i; i < count; ++i) {
                jobs[i] = receipt(count * 100 + i);
            }
            Place[] memory places = postJobs(jobs, 0);
            uint64 round = draw();
            for (uint256 i; i < count; ++i) {
                Evidence memory e;
                (e.round, e.receipt, e.place) = (round, abi.encode(jobs[i]), places[i]);
                expect(abi.encodeWithSelector(Errors.NotDouble.selector));
                court.proveDoublePost(e, e);
            }
        }
        vm.assertEq(stakeOf(2, router), STAKE);
    }

    // ---------------------------------------------------------------------------------------------------------- permissions

    function test_nobody_else_slashes_voids_suspends_or_writes() public {
        expect(abi.encodeWithSelector(ReputationErrors.NotAllowed.selector, address(this)));
        reputation.good(provider, 1);
        expect(abi.encodeWithSelector(ReputationErrors.NotAllowed.selector, address(this)));
        reputation.bad(provider, 1);
        expect(abi.encodeWithSelector(ReputationErrors.NotAllowed.selector, address(this)));
        reputation.fraud(provider, 1);
        expect(abi.encodeWithSelector(ReputationErrors.NotAllowed.selector, address(this)));
        reputation.setWriter(address(this));
        expect(abi.encodeWithSelector(ReputationErrors.NotAllowed.selector, address(this)));
        reputation.setAdmin(address(this));
        vm.prank(admin);
        reputation.setAdmin(address(this));
        vm.assertEq(reputation.admin(), address(this));
    }

    function test_what_is_built_with_nothing_is_refused() public {
        expect(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new PanelVerdict(IAuditRounds(address(0)), stakes, vault, reputation, ANSWER, address(0));
        expect(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new PanelVerdict(rounds, IStakeRegistry(address(0)), vault, reputation, ANSWER, address(0));
        expect(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new PanelVerdict(rounds, stakes, vault, reputation, 0, address(0));
        expect(abi.encodeWithSelector(ReputationErrors.BadRates.selector, 1000, 0));
        new Reputation(1000, 0, 0, admin);
        expect(abi.encodeWithSelector(ReputationErrors.BadRates.selector, 50, 1000));
        new Reputation(50, 1000, 0, admin);
    }

    function test_a_standing_is_known_of_every_round() public {
        uint32[5] memory found;
        for (uint256 i = 1; i < 5; ++i) {
            (Evidence memory e, bytes32 subject) = judged(i, [GOOD, GOOD, GOOD]);
            found[i] = reputation.standingOf(provider).reputation;
            court.rule(e, votes(subject, [GOOD, GOOD, GOOD]));
        }
        vm.assertEq(reputation.standingAt(provider, 0).reputation, 500_000);
        for (uint64 round = 1; round < 5; ++round) {
            Standing memory standing = reputation.standingAt(provider, round);
            vm.assertEq(standing.reputation, found[round]);
            vm.assertEq(standing.verified, round - 1);
        }
        vm.assertEq(reputation.standingAt(provider, 99).verified, 4);
    }

    // ----------------------------------------------------------------------------------------------------------------- fuzz

    function testFuzz_with_two_honest_of_three_only_liars_pay(uint8 liar, uint8 lie, bool isWrong) public {
        (liar, lie) = (liar % 3, lie % 8);
        uint8 truth = isWrong ? WRONG : GOOD;
        uint8[3] memory says = [truth, truth, truth];
        says[liar] = lie;
        (Evidence memory e, bytes32 subject) = judged(1, says);
        court.rule(e, votes(subject, says));
        for (uint256 i; i < 3; ++i) {
            bool pays = i == liar && lie != truth && lie != WITHHELD && lie != FORGED && lie != UNABLE;
            vm.assertEq(stakeOf(3, seats[i]), pays ? STAKE * 95 / 100 : STAKE);
        }
        vm.assertEq(stakeOf(1, provider), isWrong ? STAKE * 3 / 4 : STAKE);
        vm.assertEq(stakeOf(2, router), STAKE);
    }

    function testFuzz_the_charge_is_bounded_by_counts_and_prices(uint64[2] memory units, uint128[2] memory prices)
        public
        view
    {
        Receipt memory r = receipt(1);
        (r.inputUnits, r.outputUnits, r.inputPrice, r.outputPrice) = (units[0], units[1], prices[0], prices[1]);
        uint256 most = Faults.mostCharge(r);
        uint256 cost = uint256(units[0]) * prices[0] + uint256(units[1]) * prices[1];
        if (units[1] == 0) vm.assertEq(most, 0);
        else vm.assertTrue(most * 1e6 <= cost || most == 1, "no more than the cost");
        if (units[1] != 0) vm.assertTrue(most >= 1 && (most + 1) * 1e6 > cost, "no less either");
    }

    function testFuzz_no_proof_makes_another_verdict_of_a_ballot(uint8 count, uint8 which, uint8 lie) public view {
        Said[] memory all = new Said[](uint256(count % 12) + 1);
        for (uint256 i; i < all.length; ++i) {
            all[i] = Said(keccak256(abi.encode(i)), uint8(i % 6), 0);
        }
        Said memory one = all[which % all.length];
        Vote memory v = Vote(address(0), one.outcome, 0, Ballots.proof(all, one.subject));
        vm.assertEq(this.rootFrom(one.subject, v), Ballots.root(all));
        v.outcome = uint8((one.outcome + 1 + lie % 5) % 6);
        vm.assertTrue(this.rootFrom(one.subject, v) != Ballots.root(all), "another verdict");
    }

    function rootFrom(bytes32 subject, Vote calldata v) external pure returns (bytes32) {
        return AuditLib.ballotRoot(subject, v.outcome, v.found, v.proof);
    }
}

/// @notice A devnet with one validator.
contract PanelVerdictDevnetTest is AuditMarket {
    function times() internal pure override returns (RoundsParams memory) {
        return RoundsParams(1, 10, 40, 10, 10, 500_000, true);
    }

    function test_one_validator_decides_alone_in_a_devnet() public {
        for (uint256 i = 1; i < 3; ++i) {
            vm.prank(seats[i]);
            rounds.quit();
        }
        for (uint256 i = 1; i < 3; ++i) {
            seats.pop();
        }
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(1);
        Evidence memory e;
        (e.receipt, e.providerSignature) = (abi.encode(jobs[0]), signed(jobs[0]));
        e.place = postJobs(jobs, PAY)[0];
        e.round = draw();
        bytes32 root = Ballots.root(ballot(subjectOf(e), WRONG));
        commit(e.round, seats[0], root);
        unseal(e.round, seats[0], root);
        Vote[] memory one = new Vote[](1);
        one[0] = vote(seats[0], subjectOf(e), WRONG);
        court.rule(e, one);
        vm.assertEq(stakeOf(1, provider), STAKE * 3 / 4);
    }
}
