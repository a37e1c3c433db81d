// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PaymentVault} from "../src/PaymentVault.sol";
import {DebitEntry, FeeSchedule} from "../src/interfaces/IPaymentVault.sol";
import {SettlementLib} from "../src/libraries/SettlementLib.sol";
import {VaultErrors as Errors} from "../src/libraries/VaultErrors.sol";
import {VaultEvents as Events} from "../src/libraries/VaultEvents.sol";
import {Market} from "./utils/Market.sol";
import {BlockingToken} from "./utils/Tokens.sol";
import {Tree} from "./utils/Tree.sol";

/// @notice Posts, promotion, verdicts, debits, claims and payment.
contract VaultSettlementTest is Market {
    address internal dev = named("developer");
    address internal router = named("router");
    address internal provider = named("provider");
    address internal payee = named("payee");
    bytes32[] internal none;

    function setUp() public override {
        super.setUp();
        allot(dev, router, 1_000_000);
        register(provider, payee);
    }

    // -------------------------------------------------------------------------------------------------------------- posts

    function test_post_extends_the_job_chain() public {
        bytes32 head = keccak256(abi.encode(bytes32(0), JOBS, uint32(3), CONTENT));
        vm.expectEmit();
        emit Events.BatchPosted(router, 1, JOBS, 3, bytes32(0), 0, CONTENT, head);
        vm.prank(router);
        vault.postBatch(JOBS, 3, bytes32(0), 99, CONTENT);
        (uint64 posts, bytes32 chainHead) = vault.head(router);
        vm.assertEq(posts, 1);
        vm.assertEq(chainHead, head);
    }

    function test_every_64th_post_stores_the_head() public {
        for (uint256 i = 1; i <= 128; ++i) {
            post(router, bytes32(0), 0);
            (, bytes32 head) = vault.head(router);
            if (i % 64 == 0) vm.assertEq(vault.checkpoint(router, uint64(i / 64)), head);
        }
        vm.assertEq(vault.checkpoint(router, 0), bytes32(0));
        vm.assertEq(vault.checkpoint(router, 3), bytes32(0));
    }

    function test_batch_holds_one_to_ten_thousand_jobs() public {
        vm.startPrank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadJobCount.selector, 0, 10_000));
        vault.postBatch(JOBS, 0, bytes32(0), 0, CONTENT);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadJobCount.selector, 10_001, 10_000));
        vault.postBatch(JOBS, 10_001, bytes32(0), 0, CONTENT);
        vault.postBatch(JOBS, 10_000, bytes32(0), 0, CONTENT);
    }

    function test_payout_root_waits_for_its_window_and_is_then_promoted_by_anyone() public {
        bytes32 root = keccak256("root");
        post(router, root, 7);
        (bytes32 waiting, uint128 gross, uint64 since) = vault.pendingOf(router);
        vm.assertEq(waiting, root);
        vm.assertEq(gross, 7);
        vm.assertEq(since, START);
        vm.warp(START + WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.PayRootPending.selector, router, START + WINDOW));
        vault.promote(router);
        vm.warp(START + WINDOW);
        vm.expectEmit();
        emit Events.Promoted(router, root, 7);
        vault.promote(router);
        (bytes32 final_, uint128 finalGross) = vault.claimable(router);
        vm.assertEq(final_, root);
        vm.assertEq(finalGross, 7);
        (waiting, gross, since) = vault.pendingOf(router);
        vm.assertEq(waiting, bytes32(0));
        vm.assertEq(uint256(gross) + since, 0);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingPending.selector, router));
        vault.promote(router);
    }

    function test_second_payout_root_is_refused_until_the_first_is_through() public {
        post(router, keccak256("one"), 7);
        vm.warp(START + WINDOW - 1);
        post(router, bytes32(0), 0);
        vm.prank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.PayRootPending.selector, router, START + WINDOW));
        vault.postBatch(JOBS, 1, keccak256("two"), 8, CONTENT);
        vm.warp(START + WINDOW);
        vm.expectEmit();
        emit Events.Promoted(router, keccak256("one"), 7);
        post(router, keccak256("two"), 8);
        (bytes32 final_,) = vault.claimable(router);
        (bytes32 waiting,,) = vault.pendingOf(router);
        vm.assertEq(final_, keccak256("one"));
        vm.assertEq(waiting, keccak256("two"));
    }

    function test_lifetime_gross_never_falls() public {
        settle(router, keccak256("p"), keccak256("d"), 7);
        vm.prank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.GrossFell.selector, 6, 7));
        vault.postBatch(JOBS, 1, keccak256("root"), 6, CONTENT);
        post(router, keccak256("root"), 7);
    }

    function test_router_cannot_post_more_than_is_allotted_to_it() public {
        vm.startPrank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.Insolvent.selector, 1_000_001, 1_000_000));
        vault.postBatch(JOBS, 1, keccak256("root"), 1_000_001, CONTENT);
        vault.postBatch(JOBS, 1, keccak256("root"), 1_000_000, CONTENT);
        vm.stopPrank();
        vm.warp(block.timestamp + 1 days + SETTLE_DELAY);
        vault.release(dev, router);
        vm.prank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.Insolvent.selector, 1_000_000, 0));
        vault.postBatch(JOBS, 1, keccak256("root"), 1_000_000, CONTENT);
    }

    function test_only_the_verdict_contract_voids_a_pending_root_and_the_claimable_one_stays() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        post(router, keccak256("false root"), 600_000);
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAllowed.selector, admin));
        vault.voidPending(router);
        vm.startPrank(verdict);
        vm.expectEmit();
        emit Events.PendingVoided(router, keccak256("false root"), 600_000);
        vault.voidPending(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingPending.selector, router));
        vault.voidPending(router);
        vm.stopPrank();
        (bytes32 root, uint128 gross) = vault.claimable(router);
        vm.assertEq(root, SettlementLib.payRoot(p, d));
        vm.assertEq(gross, 500_000);
        (uint64 posts,) = vault.head(router);
        vm.assertEq(posts, 2, "the post stands");
        vm.warp(block.timestamp + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingPending.selector, router));
        vault.promote(router);
        post(router, keccak256("corrected root"), 550_000);
    }

    /// @notice A post that was under way when a ruling voided the root before it brings the reversed charge back; its router takes it out.
    function test_a_router_voids_its_own_pending_root_and_no_others() public {
        settleOne(router, provider, dev, 500_000);
        post(router, keccak256("root with the charge"), 600_000);
        vm.prank(verdict);
        vault.voidPending(router);
        post(router, keccak256("root that was under way"), 610_000);
        vm.prank(named("another router"));
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAllowed.selector, named("another router")));
        vault.voidPending(router);
        vm.startPrank(router);
        vm.expectEmit();
        emit Events.PendingVoided(router, keccak256("root that was under way"), 610_000);
        vault.voidPending(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingPending.selector, router));
        vault.voidPending(router);
        vm.stopPrank();
        post(router, keccak256("corrected root"), 550_000);
        vm.warp(block.timestamp + WINDOW);
        vault.promote(router);
        (bytes32 root,) = vault.claimable(router);
        vm.assertEq(root, keccak256("corrected root"));
        vm.prank(router);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingPending.selector, router));
        vault.voidPending(router);
    }

    // ------------------------------------------------------------------------------------------------------------- debits

    function test_nothing_is_debited_or_claimed_from_a_pending_root() public {
        bytes32 p = SettlementLib.providerLeaf(router, provider, 1, 500_000);
        bytes32 d = SettlementLib.debitLeaf(router, dev, 1, 500_000);
        bytes32 root = SettlementLib.payRoot(p, d);
        post(router, root, 500_000);
        vm.warp(block.timestamp + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotClaimable.selector, router, root));
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        vm.expectRevert(abi.encodeWithSelector(Errors.NotClaimable.selector, router, root));
        vault.claim(router, provider, 1, 500_000, p, d, none);
    }

    function test_sync_books_the_lifetime_debit_and_may_be_repeated() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        vm.expectEmit();
        emit Events.DebitSynced(router, dev, 1, 500_000);
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        (,, uint128 debited,,,) = vault.allotment(dev, router);
        (,, uint128 debitedTotal,) = vault.totals(router);
        vm.assertEq(debited, 500_000);
        vm.assertEq(debitedTotal, 500_000);
    }

    function test_debit_above_the_cap_is_refused_whatever_the_router_posts() public {
        allot(named("second developer"), router, 1_000_000);
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 1_000_001);
        vm.expectRevert(abi.encodeWithSelector(Errors.CapExceeded.selector, dev, 1_000_001, 1_000_000));
        vault.syncDebits(router, p, d, entry(dev, 1, 1_000_001));
    }

    function test_debit_never_falls() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        d = SettlementLib.debitLeaf(router, dev, 1, 499_999);
        settle(router, p, d, 500_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.DebitFell.selector, dev, 499_999, 500_000));
        vault.syncDebits(router, p, d, entry(dev, 1, 499_999));
    }

    function test_late_debit_cannot_touch_a_released_or_a_new_generation() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        vm.warp(block.timestamp + 1 days + SETTLE_DELAY);
        vault.release(dev, router);
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongGeneration.selector, dev, 1, 0));
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        vm.prank(dev);
        vault.allot(router, 1_000_000, uint64(block.timestamp + 1 days));
        vm.expectRevert(abi.encodeWithSelector(Errors.WrongGeneration.selector, dev, 1, 2));
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
    }

    function test_debit_without_a_proof_is_refused() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        bytes32 leaf = SettlementLib.debitLeaf(router, dev, 1, 400_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadProof.selector, leaf));
        vault.syncDebits(router, p, d, entry(dev, 1, 400_000));
    }

    function test_release_after_debits_returns_only_the_rest() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 300_000);
        vault.syncDebits(router, p, d, entry(dev, 1, 300_000));
        vm.warp(block.timestamp + 1 days + SETTLE_DELAY);
        vault.release(dev, router);
        vm.assertEq(vault.free(dev), 700_000);
    }

    // ------------------------------------------------------------------------------------------------------------- claims

    function synced(uint128 gross) internal returns (bytes32 p, bytes32 d) {
        (p, d) = settleOne(router, provider, dev, gross);
        vault.syncDebits(router, p, d, entry(dev, 1, gross));
    }

    function test_claim_splits_exactly_and_the_provider_gets_the_rounding() public {
        (bytes32 p, bytes32 d) = synced(19_999);
        vm.expectEmit();
        emit Events.Claimed(router, provider, 1, 19_999, 19_999, 19_403);
        vault.claim(router, provider, 1, 19_999, p, d, none);
        vm.assertEq(vault.owed(provider), 19_403);
        vm.assertEq(vault.owed(router), 299);
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        vm.assertEq(a, 99);
        vm.assertEq(b, 99);
        vm.assertEq(c, 99);
        vm.assertEq(vault.claimed(router, provider, 1), 19_999);
    }

    function test_leaf_is_not_claimed_twice() public {
        (bytes32 p, bytes32 d) = synced(500_000);
        vault.claim(router, provider, 1, 500_000, p, d, none);
        vm.expectRevert(abi.encodeWithSelector(Errors.BelowMinimum.selector, 0, CLAIM_MIN));
        vault.claim(router, provider, 1, 500_000, p, d, none);
    }

    function test_leaf_whose_gross_fell_pays_nothing_more() public {
        (bytes32 p, bytes32 d) = synced(500_000);
        vault.claim(router, provider, 1, 500_000, p, d, none);
        p = SettlementLib.providerLeaf(router, provider, 1, 400_000);
        settle(router, p, d, 500_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.BelowMinimum.selector, 0, CLAIM_MIN));
        vault.claim(router, provider, 1, 400_000, p, d, none);
    }

    function test_claim_waits_for_debits_and_the_rest_stays_claimable() public {
        address second = named("second developer");
        allot(second, router, 1_000_000);
        bytes32[] memory debits = new bytes32[](2);
        debits[0] = SettlementLib.debitLeaf(router, dev, 1, 30_000);
        debits[1] = SettlementLib.debitLeaf(router, second, 1, 20_000);
        bytes32 d = Tree.root(debits);
        bytes32 p = SettlementLib.providerLeaf(router, provider, 1, 50_000);
        settle(router, p, d, 50_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.BelowMinimum.selector, 0, CLAIM_MIN));
        vault.claim(router, provider, 1, 50_000, p, d, none);
        DebitEntry[] memory entries = new DebitEntry[](1);
        entries[0] = DebitEntry(dev, 1, 30_000, Tree.proof(debits, 0));
        vault.syncDebits(router, p, d, entries);
        vault.claim(router, provider, 1, 50_000, p, d, none);
        vm.assertEq(vault.claimed(router, provider, 1), 30_000);
        entries[0] = DebitEntry(second, 1, 20_000, Tree.proof(debits, 1));
        vault.syncDebits(router, p, d, entries);
        vault.claim(router, provider, 1, 50_000, p, d, none);
        vm.assertEq(vault.claimed(router, provider, 1), 50_000);
    }

    function test_claim_below_the_minimum_is_refused_unless_the_provider_leaves() public {
        (bytes32 p, bytes32 d) = synced(CLAIM_MIN - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.BelowMinimum.selector, CLAIM_MIN - 1, CLAIM_MIN));
        vault.claim(router, provider, 1, CLAIM_MIN - 1, p, d, none);
        vm.prank(provider);
        registry.announceLeave();
        vault.claim(router, provider, 1, CLAIM_MIN - 1, p, d, none);
        vm.assertEq(vault.claimed(router, provider, 1), CLAIM_MIN - 1);
    }

    function test_claim_needs_a_proof_a_known_fee_version_and_a_registered_provider() public {
        (bytes32 p, bytes32 d) = synced(500_000);
        bytes32 leaf = SettlementLib.providerLeaf(router, provider, 1, 500_001);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadProof.selector, leaf));
        vault.claim(router, provider, 1, 500_001, p, d, none);
        p = SettlementLib.providerLeaf(router, provider, 2, 500_000);
        settle(router, p, d, 500_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownFeeVersion.selector, 2));
        vault.claim(router, provider, 2, 500_000, p, d, none);
        address stranger = named("stranger");
        p = SettlementLib.providerLeaf(router, stranger, 1, 500_000);
        settle(router, p, d, 500_000);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownProvider.selector, stranger));
        vault.claim(router, stranger, 1, 500_000, p, d, none);
    }

    function test_each_leaf_is_split_by_the_fee_version_that_it_names() public {
        vm.prank(admin);
        vault.addFeeVersion(FeeSchedule(500, 0, 0, 0));
        bytes32[] memory leaves = new bytes32[](2);
        leaves[0] = SettlementLib.providerLeaf(router, provider, 1, 20_000);
        leaves[1] = SettlementLib.providerLeaf(router, provider, 2, 20_000);
        bytes32 p = Tree.root(leaves);
        bytes32 d = SettlementLib.debitLeaf(router, dev, 1, 40_000);
        settle(router, p, d, 40_000);
        vault.syncDebits(router, p, d, entry(dev, 1, 40_000));
        vault.claim(router, provider, 1, 20_000, p, d, Tree.proof(leaves, 0));
        vm.assertEq(vault.owed(router), 300);
        vault.claim(router, provider, 2, 20_000, p, d, Tree.proof(leaves, 1));
        vm.assertEq(vault.owed(router), 1_300);
        vm.assertEq(vault.owed(provider), 19_400 + 19_000);
    }

    // ------------------------------------------------------------------------------------------------------------ payment

    function test_collect_pays_the_payee_of_a_provider_and_a_router_itself() public {
        (bytes32 p, bytes32 d) = synced(500_000);
        vault.claim(router, provider, 1, 500_000, p, d, none);
        vm.expectEmit();
        emit Events.Collected(provider, payee, 485_000);
        vault.collect(provider);
        vault.collect(router);
        vm.assertEq(dollar.balanceOf(payee), 485_000);
        vm.assertEq(dollar.balanceOf(provider), 0);
        vm.assertEq(dollar.balanceOf(router), 7_500);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingOwed.selector, provider));
        vault.collect(provider);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingOwed.selector, router));
        vault.collect(router);
    }

    function test_collect_protocol_pays_the_three_pools() public {
        (bytes32 p, bytes32 d) = synced(500_000);
        vault.claim(router, provider, 1, 500_000, p, d, none);
        vm.expectEmit();
        emit Events.ProtocolCollected(2_500, 2_500, 2_500);
        vault.collectProtocol();
        vm.assertEq(dollar.balanceOf(treasury), 2_500);
        vm.assertEq(dollar.balanceOf(pool), 2_500);
        vm.assertEq(dollar.balanceOf(buyback), 2_500);
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        vm.assertEq(uint256(a) + b + c, 0);
    }

    function test_pool_that_the_token_refuses_keeps_its_share_and_holds_up_nobody() public {
        BlockingToken token = new BlockingToken();
        vault = new PaymentVault(token, registry, vaultParams(), admin);
        token.mint(dev, 1_000_000);
        vm.startPrank(dev);
        token.approve(address(vault), 1_000_000);
        vault.deposit(1_000_000);
        vault.allot(router, 1_000_000, uint64(block.timestamp + 1 days));
        vm.stopPrank();
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 500_000);
        vault.syncDebits(router, p, d, entry(dev, 1, 500_000));
        vault.claim(router, provider, 1, 500_000, p, d, none);
        token.refuse(pool, true);
        vm.expectEmit();
        emit Events.ProtocolCollected(2_500, 0, 2_500);
        vault.collectProtocol();
        vm.assertEq(token.balanceOf(treasury), 2_500, "treasury");
        vm.assertEq(token.balanceOf(buyback), 2_500, "buyback");
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        vm.assertEq(uint256(a) + c, 0, "paid");
        vm.assertEq(b, 2_500, "kept");
        token.refuse(pool, false);
        vault.collectProtocol();
        vm.assertEq(token.balanceOf(pool), 2_500, "paid in the end");
        (a, b, c) = vault.owedProtocol();
        vm.assertEq(uint256(a) + b + c, 0, "nothing is left");
    }

    function test_silent_router_cannot_keep_provider_or_developer_from_their_money() public {
        (bytes32 p, bytes32 d) = settleOne(router, provider, dev, 400_000);
        address anyone = named("anyone");
        vm.startPrank(anyone);
        vault.syncDebits(router, p, d, entry(dev, 1, 400_000));
        vault.claim(router, provider, 1, 400_000, p, d, none);
        vault.collect(provider);
        vm.warp(block.timestamp + 1 days + SETTLE_DELAY);
        vault.release(dev, router);
        vm.stopPrank();
        vm.prank(dev);
        vault.withdraw(600_000);
        vm.assertEq(dollar.balanceOf(payee), 388_000);
        vm.assertEq(dollar.balanceOf(dev), 600_000);
        vm.assertEq(dollar.balanceOf(address(vault)), 12_000);
    }
}
