// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {FeeSchedule} from "../src/interfaces/IPaymentVault.sol";
import {PostRecord} from "../src/libraries/PostRecordLib.sol";
import {ProtocolOwed} from "../src/libraries/ProtocolOwedLib.sol";
import {SettlementLib, Split} from "../src/libraries/SettlementLib.sol";
import {SlashLib, SlashParts} from "../src/libraries/StakeRegistryLib.sol";
import {VaultErrors as Errors} from "../src/libraries/VaultErrors.sol";
import {Market} from "./utils/Market.sol";
import {Tree} from "./utils/Tree.sol";

/// @notice Properties over arbitrary numbers; 10,000 runs each in CI.
contract FuzzTest is Market {
    address internal dev = named("developer");
    address internal router = named("router");
    address internal provider = named("provider");
    bytes32[] internal none;

    // -------------------------------------------------------------------------------------------------------- pure splits

    function testFuzz_fee_split_sums_to_the_claim_and_no_share_exceeds_its_part(
        uint128 gross,
        uint16 routerBps,
        uint16 a,
        uint16 b,
        uint16 c
    ) public pure {
        FeeSchedule memory fee = FeeSchedule(
            uint16(bound(routerBps, 0, 500)),
            uint16(bound(a, 0, 166)),
            uint16(bound(b, 0, 166)),
            uint16(bound(c, 0, 168))
        );
        Split memory s = SettlementLib.split(gross, fee);
        uint256 sum = uint256(s.provider) + s.router + s.treasury + s.validators + s.buyback;
        vm.assertEq(sum, gross, "the parts are the claim");
        floored(s.router, gross, fee.routerBps);
        floored(s.treasury, gross, fee.treasuryBps);
        floored(s.validators, gross, fee.validatorsBps);
        floored(s.buyback, gross, fee.buybackBps);
    }

    /// @notice `part = floor(gross x bps / 10000)`, said without division.
    function floored(uint256 part, uint256 gross, uint256 bps) internal pure {
        vm.assertLe(part * 10_000, gross * bps, "share above its part");
        vm.assertTrue((part + 1) * 10_000 > gross * bps, "share below its floor");
    }

    function testFuzz_slash_split_is_40_40_and_the_burned_rest_at_most_two_units_above_20(uint128 stake, uint16 bps)
        public
        pure
    {
        uint128 sigma = SlashLib.sigma(stake, uint16(bound(bps, 1, 10_000)));
        vm.assertLe(sigma, stake, "a slash never exceeds the stake");
        SlashParts memory parts = SlashLib.split(sigma);
        floored(parts.developer, sigma, 4_000);
        floored(parts.challenger, sigma, 4_000);
        uint256 burned = sigma - parts.developer - parts.challenger;
        vm.assertGe(burned * 10_000, uint256(sigma) * 2_000, "burned below 20 %");
        vm.assertTrue(burned * 10_000 < uint256(sigma) * 2_000 + 20_000, "burned above 20 % and two units");
    }

    // ------------------------------------------------------------------------------------------------------- packed words

    function testFuzz_post_record_keeps_its_four_numbers_apart(uint88 first, uint88 second, uint40 time, uint8 posts)
        public
        pure
    {
        PostRecord r = PostRecord.wrap(0).withPending(first, time).promoted().withPending(second, time);
        for (uint256 i; i < posts; ++i) {
            r = r.plusPost();
        }
        vm.assertEq(r.claimableGross(), first, "claimable");
        vm.assertEq(r.pendingGross(), second, "pending");
        vm.assertEq(r.pendingAt(), time, "time");
        vm.assertEq(r.posts(), posts, "posts");
        r = r.withoutPending();
        vm.assertEq(r.claimableGross(), first, "claimable");
        vm.assertEq(uint256(r.pendingGross()) + r.pendingAt(), 0, "nothing pending");
        vm.assertEq(r.posts(), posts, "posts");
    }

    function testFuzz_pool_sums_never_run_into_each_other(uint64[3] memory one, uint64[3] memory two) public pure {
        ProtocolOwed owed = ProtocolOwed.wrap(0).plus(one[0], one[1], one[2]).plus(two[0], two[1], two[2]);
        (uint128 a, uint128 b, uint128 c) = owed.parts();
        vm.assertEq(a, uint256(one[0]) + two[0], "treasury");
        vm.assertEq(b, uint256(one[1]) + two[1], "validators");
        vm.assertEq(c, uint256(one[2]) + two[2], "buyback");
    }

    // ----------------------------------------------------------------------------------------------------- vault and stake

    function testFuzz_debit_never_exceeds_the_cap(uint64 cap, uint64 debit) public {
        cap = uint64(bound(cap, 1, type(uint64).max / 2));
        allot(dev, router, cap);
        allot(named("second developer"), router, type(uint64).max / 2);
        debit = uint64(bound(debit, 1, type(uint64).max / 2));
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, debit);
        if (debit > cap) vm.expectRevert(abi.encodeWithSelector(Errors.CapExceeded.selector, dev, debit, cap));
        vault.syncDebits(router, p, d, entry(dev, 1, debit));
        (,, uint128 debited,,,) = vault.allotment(dev, router);
        vm.assertEq(debited, debit > cap ? 0 : debit, "booked");
    }

    function testFuzz_no_debit_crosses_generations(uint32 named_, uint8 releases) public {
        uint256 live = bound(releases, 0, 5) + 1;
        named_ = uint32(bound(named_, 0, 7));
        for (uint256 i = 1; i < live; ++i) {
            allot(dev, router, 10);
            vm.warp(block.timestamp + 1 days + SETTLE_DELAY);
            vault.release(dev, router);
        }
        allot(dev, router, 10);
        bytes32 d = SettlementLib.debitLeaf(router, dev, named_, 10);
        bytes32 p = SettlementLib.providerLeaf(router, provider, 1, 10);
        settle(router, p, d, 10);
        if (named_ != live) {
            vm.expectRevert(abi.encodeWithSelector(Errors.WrongGeneration.selector, dev, named_, live));
        }
        vault.syncDebits(router, p, d, entry(dev, named_, 10));
    }

    function testFuzz_claims_in_two_steps_pay_the_sum_of_two_splits_and_conserve(uint64 first, uint64 second) public {
        first = uint64(bound(first, CLAIM_MIN, 1e15));
        second = uint64(bound(second, CLAIM_MIN, 1e15));
        register(provider, provider);
        allot(dev, router, 2e15);
        FeeSchedule memory fee = vault.feeSchedule(1);
        claimUpTo(first);
        claimUpTo(first + second);
        Split memory a = SettlementLib.split(first, fee);
        Split memory b = SettlementLib.split(second, fee);
        vm.assertEq(vault.owed(provider), a.provider + b.provider, "provider");
        vm.assertEq(vault.owed(router), a.router + b.router, "router");
        address[] memory ds = new address[](1);
        address[] memory rs = new address[](1);
        address[] memory ps = new address[](1);
        (ds[0], rs[0], ps[0]) = (dev, router, provider);
        vm.assertEq(accounted(ds, rs, ps), dollar.balanceOf(address(vault)), "conservation");
    }

    /// @notice M13, M14: one router settles day by day, another missed every batch and every claim but the last.
    function testFuzz_how_work_is_cut_into_batches_and_claims_changes_no_sum(uint64 sum, uint8 cuts) public {
        sum = uint64(bound(sum, 16 * CLAIM_MIN, 1e15));
        uint256 days_ = bound(cuts, 2, 8);
        address late = named("late router");
        register(provider, provider);
        allot(dev, router, sum);
        allot(dev, late, sum);
        for (uint256 i = 1; i < days_; ++i) {
            claimUpTo(uint128(sum * i / days_));
            vm.prank(late);
            vault.postBatch(JOBS, 1, bytes32(0), 0, CONTENT);
        }
        claimUpTo(sum);
        (bytes32 p, bytes32 d) = settleOne(late, provider, dev, sum);
        vault.syncDebits(late, p, d, entry(dev, 1, sum));
        vault.claim(late, provider, 1, sum, p, d, none);
        (,, uint128 debited, uint128 claimedGross) = vault.totals(router);
        (,, uint128 debitedLate, uint128 claimedLate) = vault.totals(late);
        vm.assertEq(debited, debitedLate, "debited");
        vm.assertEq(claimedGross, claimedLate, "claimed");
        vm.assertEq(vault.claimed(router, provider, 1), vault.claimed(late, provider, 1), "the provider's lifetime");
        uint256 lost = vault.owed(late) - vault.owed(router);
        vm.assertLe(lost, days_ - 1, "flooring costs the router at most one unit a claim, for the provider");
    }

    function claimUpTo(uint128 lifetime) internal {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, lifetime);
        vault.syncDebits(router, p, d, entry(dev, 1, lifetime));
        vault.claim(router, provider, 1, lifetime, p, d, none);
    }

    function testFuzz_every_award_of_a_slash_is_exact_and_the_rest_burns(
        uint96 stake,
        uint16 bps,
        uint128[4] memory weights,
        bool withChallenger
    ) public {
        uint128 amount = uint128(bound(stake, 1, 1e27));
        bps = uint16(bound(bps, 1, 10_000));
        vm.prank(holder);
        stoa.transfer(provider, amount);
        vm.startPrank(provider);
        stoa.approve(address(stakes), amount);
        stakes.stake(1, amount);
        vm.stopPrank();
        address[] memory developers = new address[](4);
        uint128[] memory charges = new uint128[](4);
        uint256 total;
        for (uint256 i; i < 4; ++i) {
            (developers[i], charges[i]) = (address(uint160(1000 + i)), weights[i]);
            total += weights[i];
        }
        uint256 supply = stoa.totalSupply();
        address challenger = withChallenger ? named("challenger") : address(0);
        vm.prank(slasher);
        stakes.slash(keccak256("fault"), provider, 1, bps, developers, charges, challenger);
        uint256 sigma = uint256(amount) * bps / 10_000;
        uint256 awarded;
        for (uint256 i; i < 4; ++i) {
            uint256 part = total == 0 ? 0 : (sigma * 4_000 / 10_000) * charges[i] / total;
            vm.assertEq(stakes.owed(developers[i]), part, "developer");
            awarded += part;
        }
        uint256 toChallenger = withChallenger ? sigma * 4_000 / 10_000 : 0;
        vm.assertEq(stakes.owed(named("challenger")), toChallenger, "challenger");
        vm.assertEq(supply - stoa.totalSupply(), sigma - awarded - toChallenger, "burned");
        vm.assertEq(stakes.slashable(1, provider), amount - sigma, "left");
    }

    function testFuzz_a_leaf_is_proved_at_its_place_and_nothing_else_is(uint8 size, uint8 index, bytes32 other)
        public
        pure
    {
        bytes32[] memory leaves = new bytes32[](bound(size, 1, 40));
        for (uint256 i; i < leaves.length; ++i) {
            leaves[i] = keccak256(abi.encode(i));
        }
        uint256 place = bound(index, 0, leaves.length - 1);
        bytes32 root = Tree.root(leaves);
        bytes32[] memory proof = Tree.proof(leaves, place);
        vm.assertTrue(MerkleProof.verify(proof, root, leaves[place]), "own leaf");
        vm.assertTrue(other == leaves[place] || !MerkleProof.verify(proof, root, other), "other leaf");
    }
}
