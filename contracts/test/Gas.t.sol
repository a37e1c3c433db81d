// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {DebitEntry} from "../src/interfaces/IPaymentVault.sol";
import {SettlementLib} from "../src/libraries/SettlementLib.sol";
import {Market} from "./utils/Market.sol";
import {Tree} from "./utils/Tree.sol";

/// @notice Gas of whole transactions: isolated, so that every call is a transaction of its own with its 21,000 base, its calldata
/// and cold storage. Kept in snapshots/gas.json; a change of that file is a sentence in the commit.
/// forge-config: default.isolate = true
/// forge-config: ci.isolate = true
contract GasTest is Market {
    uint256 internal constant PAYEES = 128;
    uint256 internal constant DEVELOPERS = 100;
    address internal router = named("router");

    bytes32[] internal providerLeaves;
    bytes32[] internal debitLeaves;
    bytes32 internal providerRoot;
    bytes32 internal debitRoot;

    function provider(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("provider", i)))));
    }

    function developer(uint256 i) internal pure returns (address) {
        return address(uint160(uint256(keccak256(abi.encode("developer", i)))));
    }

    function setUp() public override {
        super.setUp();
        for (uint256 i; i < PAYEES; ++i) {
            register(provider(i), provider(i));
        }
        for (uint256 i; i < DEVELOPERS; ++i) {
            allot(developer(i), router, 1_000e6);
        }
    }

    function gross(uint256 round) internal pure returns (uint128) {
        return uint128(round * PAYEES * 1e6);
    }

    /// @notice Lifetime sums after `round` rounds: every provider earned `round` dollars, every developer paid its part.
    function payRoot(uint256 round) internal returns (bytes32) {
        delete providerLeaves;
        delete debitLeaves;
        for (uint256 i; i < PAYEES; ++i) {
            providerLeaves.push(SettlementLib.providerLeaf(router, provider(i), 1, uint128(round * 1e6)));
        }
        for (uint256 i; i < DEVELOPERS; ++i) {
            debitLeaves.push(SettlementLib.debitLeaf(router, developer(i), 1, gross(round) / 100));
        }
        providerRoot = Tree.root(providerLeaves);
        debitRoot = Tree.root(debitLeaves);
        return SettlementLib.payRoot(providerRoot, debitRoot);
    }

    function batch(bytes32 root, uint128 sum) internal {
        vm.prank(router);
        vault.postBatch(keccak256(abi.encode(root, block.timestamp)), 10_000, root, sum, keccak256(abi.encode(sum)));
    }

    function settleRound(uint256 round) internal {
        batch(payRoot(round), gross(round));
        vm.warp(block.timestamp + WINDOW);
        vault.promote(router);
    }

    function sync(uint256 count, uint256 round) internal {
        DebitEntry[] memory entries = new DebitEntry[](count);
        for (uint256 i; i < count; ++i) {
            entries[i] = DebitEntry(developer(i), 1, gross(round) / 100, Tree.proof(debitLeaves, i));
        }
        vault.syncDebits(router, providerRoot, debitRoot, entries);
    }

    function claim(uint256 i, uint256 round) internal {
        vault.claim(router, provider(i), 1, uint128(round * 1e6), providerRoot, debitRoot, Tree.proof(providerLeaves, i));
    }

    /// @notice Batches every 60 s with a window of 90 s: every second one carries a payout root and promotes the one before.
    function test_posting_pair_in_steady_state() public {
        settleRound(1);
        batch(payRoot(2), gross(2));
        vm.warp(block.timestamp + 60);
        batch(bytes32(0), 0);
        vm.warp(block.timestamp + 60);
        bytes32 root = payRoot(3);
        batch(root, gross(3));
        uint256 withRoot = vm.snapshotGasLastCall("gas", "postBatch with payout root, promoting the one before");
        vm.warp(block.timestamp + 60);
        batch(bytes32(0), 0);
        uint256 jobsOnly = vm.snapshotGasLastCall("gas", "postBatch job root only");
        uint256 mean = (withRoot + jobsOnly) / 2;
        vm.snapshotValue("gas", "mean of a posting pair", mean);
        vm.assertLe(mean, 45_000, "a posting pair costs more than its goal");
    }

    /// @notice The same rhythm over 64 posts: one of them also stores a checkpoint of the job chain.
    function test_mean_of_64_posts_with_their_checkpoint() public {
        settleRound(1);
        batch(payRoot(2), gross(2));
        uint256 sum;
        for (uint256 i; i < 64; ++i) {
            vm.warp(block.timestamp + 60);
            bytes32 root = i % 2 == 0 ? bytes32(0) : keccak256(abi.encode(i));
            batch(root, i % 2 == 0 ? 0 : gross(2) + uint128(i * 1e6));
            sum += vm.snapshotGasLastCall("gas", "postBatch last of 64");
        }
        vm.snapshotValue("gas", "mean of 64 posts with their checkpoint", sum / 64);
        vm.assertLe(sum / 64, 45_000, "posting costs more than its goal");
    }

    function test_first_post_of_a_router() public {
        batch(payRoot(1), gross(1));
        vm.snapshotGasLastCall("gas", "postBatch first of a router");
        vm.warp(block.timestamp + WINDOW);
        vault.promote(router);
        vm.snapshotGasLastCall("gas", "promote first of a router");
    }

    function test_claim_of_one_of_128_payees() public {
        settleRound(1);
        sync(DEVELOPERS, 1);
        claim(0, 1);
        claim(5, 1);
        vm.snapshotGasLastCall("gas", "claim first, 128 payees");
        settleRound(2);
        sync(DEVELOPERS, 2);
        claim(5, 2);
        uint256 later = vm.snapshotGasLastCall("gas", "claim later, 128 payees");
        vm.assertLe(later, 60_000, "a later claim costs more than its goal");
    }

    function test_sync_of_one_and_of_a_hundred() public {
        settleRound(1);
        sync(DEVELOPERS, 1);
        settleRound(2);
        sync(1, 2);
        vm.snapshotGasLastCall("gas", "syncDebits 1 entry");
        settleRound(3);
        sync(DEVELOPERS, 3);
        vm.snapshotGasLastCall("gas", "syncDebits 100 entries");
    }

    function test_calls_of_a_developer() public {
        address d = developer(0);
        dollar.mint(d, 100e6);
        vm.prank(d);
        dollar.approve(address(vault), 100e6);
        deposit(developer(1), 1e6);
        vm.prank(d);
        vault.deposit(50e6);
        vm.snapshotGasLastCall("gas", "deposit");
        address second = named("second router");
        vm.prank(d);
        vault.allot(second, 10e6, uint64(block.timestamp + 1 days));
        vm.snapshotGasLastCall("gas", "allot first of a pair");
        vm.prank(d);
        vault.topUp(second, 10e6, uint64(block.timestamp + 2 days));
        vm.snapshotGasLastCall("gas", "topUp");
        vm.prank(d);
        vault.revoke(second);
        vm.snapshotGasLastCall("gas", "revoke");
        vm.warp(block.timestamp + NOTICE + SETTLE_DELAY);
        vault.release(d, second);
        vm.snapshotGasLastCall("gas", "release");
        vm.prank(d);
        vault.withdraw(1e6);
        vm.snapshotGasLastCall("gas", "withdraw");
    }

    function test_slash_with_one_developer() public {
        address offender = provider(0);
        vm.prank(holder);
        stoa.transfer(offender, 10_000e18);
        vm.startPrank(offender);
        stoa.approve(address(stakes), 10_000e18);
        stakes.stake(1, 10_000e18);
        vm.snapshotGasLastCall("gas", "stake first");
        vm.stopPrank();
        address[] memory developers = new address[](1);
        uint128[] memory charges = new uint128[](1);
        (developers[0], charges[0]) = (developer(0), 5_000);
        vm.prank(slasher);
        stakes.slash(keccak256("fault"), offender, 1, 2_500, developers, charges, named("challenger"));
        vm.snapshotGasLastCall("gas", "slash first, one developer");
    }
}
