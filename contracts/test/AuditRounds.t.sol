// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AuditRounds} from "../src/AuditRounds.sol";
import {Phase, Round, RoundsParams, Snapshot, ValidatorKey} from "../src/interfaces/IAuditRounds.sol";
import {IPaymentVault} from "../src/interfaces/IPaymentVault.sol";
import {IStakeRegistry} from "../src/interfaces/IStakeRegistry.sol";
import {AuditLib} from "../src/libraries/AuditLib.sol";
import {AuditRoundsErrors as Errors, AuditRoundsEvents as Events} from "../src/libraries/AuditRoundsLib.sol";
import {Receipt} from "../src/libraries/ReceiptLib.sol";
import {AuditMarket} from "./utils/AuditMarket.sol";
import {Wallet} from "./utils/Test.sol";

contract AuditRoundsTest is AuditMarket {
    function expect(bytes memory data) internal {
        vm.expectRevert(data);
    }

    function expectPhase(uint64 round, Phase phase) internal {
        expect(abi.encodeWithSelector(Errors.WrongPhase.selector, round, phase));
    }

    function postOne(uint256 job) internal {
        Receipt[] memory jobs = new Receipt[](1);
        jobs[0] = receipt(job);
        postJobs(jobs, 0);
    }

    function opened() internal returns (uint64 round) {
        postOne(1);
        pass(1);
        round = rounds.open();
    }

    function is_(uint64 round, Phase phase) internal view {
        vm.assertEq(uint256(rounds.phase(round)), uint256(phase), "phase");
    }

    // ------------------------------------------------------------------------------------------------------- construction

    function test_times_must_end_before_stake_is_out_of_reach() public {
        RoundsParams memory p = times();
        p.rulings = UNBONDING - 70 - ANSWER;
        new AuditRounds(stakes, vault, p, ANSWER, admin);
        p.rulings += 1;
        expect(abi.encodeWithSelector(Errors.TimesTooLong.selector, UNBONDING + 1, UNBONDING));
        new AuditRounds(stakes, vault, p, ANSWER, admin);
        p.rulings = 0;
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        new AuditRounds(stakes, vault, p, ANSWER, admin);
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        new AuditRounds(IStakeRegistry(address(0)), vault, times(), ANSWER, admin);
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        new AuditRounds(stakes, IPaymentVault(address(0)), times(), ANSWER, admin);
        vm.assertEq(keccak256(abi.encode(rounds.params())), keccak256(abi.encode(times())));
    }

    function test_only_the_admin_names_verdict_planters_and_admin() public {
        bytes memory refused = abi.encodeWithSelector(Errors.NotAllowed.selector, address(this));
        expect(refused);
        rounds.setVerdict(address(1));
        expect(refused);
        rounds.setPlanter(address(1), true);
        expect(refused);
        rounds.setAdmin(address(1));
        expect(refused);
        rounds.suspend(seats[0], 1);
        vm.startPrank(admin);
        vm.expectEmit();
        emit Events.PlanterSet(address(1), true);
        rounds.setPlanter(address(1), true);
        vm.expectEmit();
        emit Events.VerdictSet(address(2));
        rounds.setVerdict(address(2));
        vm.expectEmit();
        emit Events.AdminSet(address(3));
        rounds.setAdmin(address(3));
        vm.stopPrank();
        vm.assertEq(rounds.admin(), address(3));
    }

    // --------------------------------------------------------------------------------------------------------------- seats

    function test_a_seat_needs_stake_and_a_chain() public {
        address who = keyed("newcomer");
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        join(who, 0);
        expect(abi.encodeWithSelector(Errors.NotStaked.selector, who));
        join(who, link(who, 0));
        vm.startPrank(who);
        expect(abi.encodeWithSelector(Errors.NotSeated.selector, who));
        rounds.quit();
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        rounds.renew(0);
        expect(abi.encodeWithSelector(Errors.NotSeated.selector, who));
        rounds.renew(link(who, 0));
        vm.stopPrank();
        bond(who, 3, STAKE);
        (bytes32 x, bytes32 y) = (bytes32(wallets[who].publicKeyX), bytes32(wallets[who].publicKeyY));
        vm.expectEmit();
        emit Events.Joined(who, link(who, 0), x, y);
        join(who, link(who, 0));
        expect(abi.encodeWithSelector(Errors.AlreadySeated.selector, who));
        join(who, link(who, 0));
        vm.startPrank(who);
        vm.expectEmit();
        emit Events.Renewed(who, link(who, 1));
        rounds.renew(link(who, 1));
        vm.assertEq(rounds.tipOf(who), link(who, 1));
        vm.expectEmit();
        emit Events.Left(who);
        rounds.quit();
        vm.stopPrank();
        vm.assertEq(rounds.validators().length, 3);
    }

    function test_a_validator_joins_with_its_own_public_key_and_everyone_reads_it() public {
        address who = keyed("newcomer");
        bond(who, 3, STAKE);
        (bytes32 x, bytes32 y) = (bytes32(wallets[who].publicKeyX), bytes32(wallets[who].publicKeyY));
        vm.startPrank(who);
        expect(abi.encodeWithSelector(Errors.WrongKey.selector, who));
        rounds.join(link(who, 0), y, x);
        expect(abi.encodeWithSelector(Errors.WrongKey.selector, who));
        rounds.join(link(who, 0), x, bytes32(uint256(y) ^ 1));
        expect(abi.encodeWithSelector(Errors.WrongKey.selector, who));
        rounds.join(link(who, 0), bytes32(wallets[seats[0]].publicKeyX), bytes32(wallets[seats[0]].publicKeyY));
        rounds.join(link(who, 0), x, y);
        vm.stopPrank();
        ValidatorKey[] memory keys = rounds.validatorKeys();
        vm.assertEq(keys.length, 4);
        for (uint256 i; i < 4; ++i) {
            Wallet memory own = wallets[i < 3 ? seats[i] : who];
            vm.assertEq(keys[i].validator, own.addr);
            vm.assertEq(keys[i].x, bytes32(own.publicKeyX));
            vm.assertEq(keys[i].y, bytes32(own.publicKeyY));
        }
        vm.prank(seats[0]);
        rounds.quit();
        vm.assertEq(rounds.validatorKeys().length, 3);
        vm.assertEq(rounds.validatorKeys()[0].validator, who);
    }

    function test_seats_are_sixty_four() public {
        for (uint256 i = 3; i < 64; ++i) {
            seat(i);
        }
        address late = keyed("late");
        bond(late, 3, STAKE);
        bytes32 tip = link(late, 0);
        expect(abi.encodeWithSelector(Errors.SeatsTaken.selector, 64));
        join(late, tip);
        vm.assertEq(opened(), 1);
        pass(1);
        for (uint256 i; i < 64; ++i) {
            reveal(seats[i]);
        }
        is_(1, Phase.Ballot);
    }

    function test_who_lost_its_stake_loses_its_seat() public {
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, seats[1]));
        rounds.unseat(seats[1]);
        vm.prank(seats[1]);
        stakes.requestUnbond(3, STAKE);
        rounds.unseat(seats[1]);
        expect(abi.encodeWithSelector(Errors.NotSeated.selector, seats[1]));
        rounds.unseat(seats[1]);
        vm.assertEq(rounds.validators().length, 2);
    }

    function test_a_router_keeps_its_seat_until_all_it_posted_is_covered() public {
        expect(abi.encodeWithSelector(Errors.NotStaked.selector, named("poor router")));
        rounds.enrol(named("poor router"));
        expect(abi.encodeWithSelector(Errors.AlreadySeated.selector, router));
        rounds.enrol(router);
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, router));
        rounds.strike(router);
        postOne(1);
        vm.prank(router);
        stakes.requestUnbond(2, STAKE);
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, router));
        rounds.strike(router);
        draw();
        vm.expectEmit();
        emit Events.Struck(router);
        rounds.strike(router);
        expect(abi.encodeWithSelector(Errors.NotSeated.selector, router));
        rounds.strike(router);
        vm.assertEq(rounds.routers().length, 0);
    }

    function test_a_router_that_could_still_move_money_keeps_its_seat_without_stake() public {
        address developer = named("developer");
        allot(developer, router, 1e6);
        vm.prank(router);
        stakes.requestUnbond(2, STAKE);
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, router));
        rounds.strike(router);
        address payee = named("payee");
        register(payee, payee);
        (bytes32 pays, bytes32 debits) = settleOne(router, payee, developer, 1e6);
        draw();
        vault.syncDebits(router, pays, debits, entry(developer, 1, 1e6));
        // Another root could still give what is not claimed to somebody else.
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, router));
        rounds.strike(router);
        vault.claim(router, payee, 1, 1e6, pays, debits, new bytes32[](0));
        rounds.strike(router);
        vm.assertEq(rounds.routers().length, 0);
    }

    function test_what_was_released_and_dust_hold_no_seat() public {
        allot(named("developer"), router, 1e9);
        allot(named("stranger"), router, 1e6 - 1);
        vm.prank(router);
        stakes.requestUnbond(2, STAKE);
        vm.prank(named("developer"));
        vault.revoke(router);
        vm.warp(block.timestamp + NOTICE + SETTLE_DELAY);
        expect(abi.encodeWithSelector(Errors.StillSeated.selector, router));
        rounds.strike(router);
        vault.release(named("developer"), router);
        rounds.strike(router);
        vm.assertEq(rounds.routers().length, 0);
    }

    function test_no_chain_changes_while_preimages_are_revealed() public {
        opened();
        bytes memory refused = abi.encodeWithSelector(Errors.RevealRunning.selector, 1);
        address newcomer = keyed("newcomer");
        bond(newcomer, 3, STAKE);
        expect(refused);
        join(newcomer, keccak256("tip"));
        expect(refused);
        vm.prank(seats[0]);
        rounds.renew(keccak256("tip"));
        expect(refused);
        rounds.open();
    }

    // --------------------------------------------------------------------------------------------------------------- rounds

    function test_a_round_opens_on_new_posts_of_a_seated_router() public {
        expect(abi.encodeWithSelector(Errors.NothingPosted.selector));
        rounds.open();
        postOne(1);
        (uint64 count, bytes32 head) = vault.head(router);
        vm.expectEmit();
        emit Events.Covered(1, router, count, head, 0);
        vm.expectEmit();
        emit Events.Opened(1, 1, 0);
        rounds.open();
        Snapshot memory snapshot = rounds.snapshot(1, router);
        vm.assertEq(snapshot.head, head);
        pass(1);
        for (uint256 i; i < 3; ++i) {
            reveal(seats[i]);
        }
        expect(abi.encodeWithSelector(Errors.NothingPosted.selector));
        rounds.open();
        postOne(2);
        vm.assertEq(rounds.open(), 2);
        vm.assertEq(rounds.snapshot(2, router).previous, 1);
        vm.assertEq(rounds.roundOf(2).committee, rounds.roundOf(1).committee, "an unchanged committee is shared");
    }

    function test_rounds_keep_their_distance() public {
        opened();
        pass(0);
        for (uint256 i; i < 3; ++i) {
            reveal(seats[i]);
        }
        postOne(2);
        expect(abi.encodeWithSelector(Errors.TooSoon.selector, block.timestamp + 1));
        rounds.open();
    }

    function test_without_validators_no_round_opens() public {
        for (uint256 i; i < 3; ++i) {
            vm.prank(seats[i]);
            stakes.requestUnbond(3, STAKE);
        }
        postOne(1);
        expect(abi.encodeWithSelector(Errors.NoValidators.selector));
        rounds.open();
    }

    function test_reveals_need_a_later_block_the_next_link_and_a_place() public {
        expectPhase(0, Phase.None);
        rounds.draw();
        opened();
        bytes32 next = link(seats[0], 1);
        expect(abi.encodeWithSelector(Errors.SameBlock.selector, block.number));
        vm.prank(seats[0]);
        rounds.reveal(next);
        pass(1);
        expect(abi.encodeWithSelector(Errors.NotOfCommittee.selector, 1, address(this)));
        rounds.reveal(next);
        bytes32 skipped = link(seats[0], 2);
        expect(abi.encodeWithSelector(Errors.WrongPreimage.selector, rounds.tipOf(seats[0])));
        vm.prank(seats[0]);
        rounds.reveal(skipped);
        expect(abi.encodeWithSelector(Errors.WrongTime.selector, uint64(START + 1 + 10)));
        rounds.draw();
        reveal(seats[0]);
        expect(abi.encodeWithSelector(Errors.AlreadyDone.selector, 1, seats[0]));
        vm.prank(seats[0]);
        rounds.reveal(skipped);
        pass(9);
        bytes32 late = link(seats[1], 1);
        expect(abi.encodeWithSelector(Errors.WrongTime.selector, uint64(START + 1 + 10)));
        vm.prank(seats[1]);
        rounds.reveal(late);
        rounds.draw();
        Round memory r = rounds.roundOf(1);
        vm.assertEq(r.beacon, AuditLib.beacon(1, r.blockHash, AuditLib.contribution(seats[0], next)));
        vm.assertTrue(r.blockHash != 0, "the beacon takes the hash of the block of `open`");
        expectPhase(1, Phase.Ballot);
        rounds.draw();
    }

    function test_the_hash_of_a_forgotten_block_is_replaced() public {
        opened();
        vm.roll(block.number + 300);
        reveal(seats[0]);
        vm.assertTrue(rounds.roundOf(1).blockHash != 0, "fixed");
    }

    function test_phases_end_when_all_have_acted_or_at_their_time() public {
        opened();
        is_(1, Phase.Reveal);
        is_(2, Phase.None);
        pass(1);
        for (uint256 i; i < 3; ++i) {
            is_(1, Phase.Reveal);
            reveal(seats[i]);
        }
        is_(1, Phase.Ballot);
        commit(1, seats[0], 0);
        commit(1, seats[1], 0);
        pass(39);
        is_(1, Phase.Ballot);
        pass(1);
        is_(1, Phase.Unseal);
        unseal(1, seats[0], 0);
        is_(1, Phase.Unseal);
        unseal(1, seats[1], 0);
        is_(1, Phase.Rulings);
        pass(499_999);
        is_(1, Phase.Rulings);
        pass(1);
        is_(1, Phase.Closed);
    }

    function test_ballots_are_committed_once_by_the_committee_and_shown_as_committed() public {
        opened();
        expectPhase(1, Phase.Reveal);
        rounds.commitBallot(1, keccak256("x"));
        pass(1);
        for (uint256 i; i < 3; ++i) {
            reveal(seats[i]);
        }
        vm.startPrank(seats[0]);
        expect(abi.encodeWithSelector(Errors.ZeroValue.selector));
        rounds.commitBallot(1, 0);
        vm.stopPrank();
        commit(1, seats[0], keccak256("root"));
        expect(abi.encodeWithSelector(Errors.AlreadyDone.selector, 1, seats[0]));
        vm.prank(seats[0]);
        rounds.commitBallot(1, keccak256("another"));
        expect(abi.encodeWithSelector(Errors.NotOfCommittee.selector, 1, address(this)));
        rounds.commitBallot(1, keccak256("x"));
        expectPhase(1, Phase.Ballot);
        vm.prank(seats[0]);
        rounds.unseal(1, keccak256("root"), SALT);
        pass(40);
        expect(abi.encodeWithSelector(Errors.WrongOpening.selector, seats[0]));
        vm.prank(seats[0]);
        rounds.unseal(1, keccak256("another"), SALT);
        expect(abi.encodeWithSelector(Errors.WrongOpening.selector, seats[1]));
        vm.prank(seats[1]);
        rounds.unseal(1, keccak256("root"), SALT);
        (bool shown,) = rounds.ballotOf(1, 0);
        vm.assertTrue(!shown, "not yet");
        unseal(1, seats[0], keccak256("root"));
        bytes32 root;
        (shown, root) = rounds.ballotOf(1, 0);
        vm.assertTrue(shown && root == keccak256("root"), "shown");
        expectPhase(1, Phase.Rulings);
        vm.prank(seats[0]);
        rounds.unseal(1, keccak256("root"), SALT);
    }

    function test_who_joins_later_is_not_of_the_committee() public {
        postOne(1);
        uint64 round = draw();
        seat(3);
        expect(abi.encodeWithSelector(Errors.NotOfCommittee.selector, round, seats[3]));
        vm.prank(seats[3]);
        rounds.commitBallot(round, keccak256("x"));
        vm.assertEq(rounds.committee(round).length, 3);
    }

    // --------------------------------------------------------------------------------------------------------------- plants

    function sign(uint256 key, bytes32 job) internal view returns (bytes memory) {
        bytes32 digest = AuditLib.plantDigest(block.chainid, address(rounds), job);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function allCast(uint64 round) internal {
        for (uint256 i; i < 3; ++i) {
            commit(round, seats[i], 0);
        }
        for (uint256 i; i < 3; ++i) {
            unseal(round, seats[i], 0);
        }
    }

    function test_a_plant_is_stored_before_its_round_and_signed_by_who_paid() public {
        bytes32 job = receipt(1).jobId;
        bytes32 commitment = AuditLib.plantCommitment(job, account, SALT);
        expect(abi.encodeWithSelector(Errors.NotAllowed.selector, address(this)));
        rounds.plant(commitment);
        vm.startPrank(named("planter"));
        rounds.plant(commitment);
        expect(abi.encodeWithSelector(Errors.AlreadyPlanted.selector, commitment));
        rounds.plant(commitment);
        vm.stopPrank();
        postOne(1);
        uint64 round = draw();
        bytes32 tooLate = AuditLib.plantCommitment(receipt(2).jobId, account, SALT);
        vm.prank(named("planter"));
        rounds.plant(tooLate);
        bytes memory signature = sign(ACCOUNT_KEY, job);
        expectPhase(round, Phase.Ballot);
        rounds.namePlant(round, job, account, SALT, signature);
        allCast(round);
        is_(round, Phase.Plants);
        bytes memory other = sign(PROVIDER_KEY, job);
        expect(abi.encodeWithSelector(Errors.WrongSigner.selector, account));
        rounds.namePlant(round, job, account, SALT, other);
        expect(abi.encodeWithSelector(Errors.WrongSigner.selector, account));
        rounds.namePlant(round, job, account, SALT, "");
        bytes32 late = receipt(2).jobId;
        expect(abi.encodeWithSelector(Errors.NotPlanted.selector, tooLate, round));
        rounds.namePlant(round, late, account, SALT, signature);
        vm.expectEmit();
        emit Events.PlantNamed(round, job, account, 1, true);
        rounds.namePlant(round, job, account, SALT, signature);
        vm.assertTrue(rounds.isPlant(round, job, account), "a plant");
        vm.assertTrue(!rounds.isPlant(round, job, provider), "another account's job of the same name is none");
        vm.assertTrue(!rounds.isPlant(round, late, account), "no plant");
        is_(round, Phase.Rulings);
        vm.assertEq(rounds.outstanding(), 1);
    }

    function store(bytes32 job, address payer, bytes32 salt) internal {
        vm.prank(named("planter"));
        rounds.plant(AuditLib.plantCommitment(job, payer, salt));
    }

    /// @dev A round in which all is done but the plants.
    function shownRound(uint256 job) internal returns (uint64 round) {
        postOne(job);
        round = draw();
        allCast(round);
    }

    function test_a_name_holds_in_each_round_that_opened_after_the_plant_was_stored() public {
        bytes32 job = receipt(1).jobId;
        uint64 before = shownRound(1);
        pass(30);
        store(job, account, SALT);
        uint64 first = shownRound(2);
        pass(30);
        uint64 other = shownRound(3);
        is_(first, Phase.Rulings);
        is_(other, Phase.Plants);
        rounds.namePlant(other, job, account, SALT, sign(ACCOUNT_KEY, job));
        is_(other, Phase.Rulings);
        vm.assertTrue(!rounds.isPlant(before, job, account), "stored too late for this one");
        vm.assertTrue(rounds.isPlant(first, job, account) && rounds.isPlant(other, job, account), "two rounds");
    }

    function test_a_plant_is_named_after_its_phase_as_well_and_not_before() public {
        bytes32 job = receipt(1).jobId;
        store(job, account, SALT);
        uint64 round = shownRound(1);
        pass(10);
        is_(round, Phase.Rulings);
        rounds.namePlant(round, job, account, SALT, sign(ACCOUNT_KEY, job));
        vm.assertTrue(rounds.isPlant(round, job, account), "a plant");
        vm.assertEq(rounds.roundOf(round).plantsNamed, 0, "nobody waited for it any more");
        vm.assertEq(rounds.outstanding(), 0);
        pass(20);
        store(receipt(2).jobId, account, SALT);
        postOne(2);
        uint64 next = draw();
        bytes memory signature = sign(ACCOUNT_KEY, receipt(2).jobId);
        bytes32 id = receipt(2).jobId;
        expectPhase(next, Phase.Ballot);
        rounds.namePlant(next, id, account, SALT, signature);
        pass(6 days);
        expectPhase(round, Phase.Closed);
        rounds.namePlant(round, id, account, SALT, signature);
    }

    function test_who_plants_a_job_again_takes_no_round_from_its_name() public {
        bytes32 job = receipt(1).jobId;
        store(job, account, SALT);
        uint64 first = shownRound(1);
        bytes memory signature = sign(ACCOUNT_KEY, job);
        rounds.namePlant(first, job, account, SALT, signature);
        pass(30);
        store(job, account, bytes32(uint256(7)));
        store(job, provider, SALT);
        uint64 second = shownRound(2);
        rounds.namePlant(second, job, account, bytes32(uint256(7)), signature);
        rounds.namePlant(second, job, provider, SALT, sign(PROVIDER_KEY, job));
        vm.assertTrue(rounds.isPlant(first, job, account), "the first name stays");
        vm.assertTrue(!rounds.isPlant(first, job, provider), "no plant");
        vm.assertTrue(rounds.isPlant(second, job, provider), "a plant");
    }

    function test_no_round_waits_for_a_plant_that_nobody_names_for_long() public {
        bytes32 job = receipt(1).jobId;
        store(job, account, SALT);
        store(receipt(2).jobId, account, SALT);
        uint64 last = rounds.PLANT_ROUNDS();
        for (uint64 i = 1; i <= last; ++i) {
            vm.assertEq(rounds.roundOf(shownRound(i)).plantsDue, 2);
            is_(i, Phase.Plants);
            pass(30);
        }
        store(receipt(3).jobId, account, SALT);
        uint64 round = shownRound(100);
        vm.assertTrue(round == last + 1 && rounds.roundOf(round).plantsDue == 1, "the first two are forgotten");
        rounds.namePlant(round, job, account, SALT, sign(ACCOUNT_KEY, job));
        vm.assertTrue(rounds.isPlant(1, job, account), "it can still be named");
        is_(round, Phase.Plants);
        vm.assertEq(rounds.outstanding(), 1, "and stands for no other");
        rounds.namePlant(round, receipt(3).jobId, account, SALT, sign(ACCOUNT_KEY, receipt(3).jobId));
        is_(round, Phase.Rulings);
    }

    function test_a_plant_is_named_once() public {
        bytes32[2] memory jobs = [receipt(1).jobId, receipt(2).jobId];
        for (uint256 i; i < 2; ++i) {
            vm.prank(named("planter"));
            rounds.plant(AuditLib.plantCommitment(jobs[i], account, SALT));
        }
        postOne(1);
        uint64 round = draw();
        allCast(round);
        bytes memory signature = sign(ACCOUNT_KEY, jobs[0]);
        rounds.namePlant(round, jobs[0], account, SALT, signature);
        bytes32 commitment = AuditLib.plantCommitment(jobs[0], account, SALT);
        expect(abi.encodeWithSelector(Errors.AlreadyPlanted.selector, commitment));
        rounds.namePlant(round, jobs[0], account, SALT, signature);
        is_(round, Phase.Plants);
        pass(10);
        is_(round, Phase.Rulings);
    }

    // --------------------------------------------------------------------------------------------------------------- panels

    function testFuzz_a_panel_has_three_members_of_the_committee_with_stake(uint8 more, bytes32 subject) public {
        for (uint256 i; i < more % 12; ++i) {
            seat(3 + i);
        }
        postOne(1);
        pass(1);
        uint64 round = rounds.open();
        (address[] memory nobody,) = rounds.panel(round, subject);
        vm.assertEq(nobody.length, 0);
        pass(1);
        for (uint256 i; i < seats.length; ++i) {
            reveal(seats[i]);
        }
        (address[] memory who, uint256[] memory places) = rounds.panel(round, subject);
        vm.assertEq(who.length, 3);
        vm.assertTrue(who[0] != who[1] && who[0] != who[2] && who[1] != who[2], "distinct");
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(rounds.placeOf(round, who[i]), places[i]);
        }
    }
}
