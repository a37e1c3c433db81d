// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {TestDollar} from "../../src/TestDollar.sol";
import {VaultState} from "../../src/base/VaultState.sol";
import {DebitEntry, VaultParams} from "../../src/interfaces/IPaymentVault.sol";
import {SettlementLib, Split} from "../../src/libraries/SettlementLib.sol";
import {Book, OpenVault} from "./OpenVault.sol";
import {Proofs} from "./Proofs.sol";

/// @notice Proofs about the vault: from every state that its invariants allow, one call by anybody keeps them.
contract VaultProofs is Proofs {
    uint64 internal constant WINDOW = 90;
    uint64 internal constant SETTLE_DELAY = 3600;
    uint128 internal constant CLAIM_MIN = 10_000;

    address internal constant DEV = address(0xd0);
    address internal constant ROUTER = address(0xe0);
    address internal constant PROVIDER = address(0xa0);
    address internal constant TREASURY = address(0xb1);
    address internal constant POOL = address(0xb2);
    address internal constant BUYBACK = address(0xb3);

    TestDollar internal dollar;
    ProviderRegistry internal registry;
    OpenVault internal vault;

    /// @notice What is compared before and after a call.
    struct Sums {
        uint256 free;
        uint256 cap;
        uint256 debited;
        uint256 capTotal;
        uint256 released;
        uint256 debitedTotal;
        uint256 claimedGross;
        uint256 claimableGross;
        uint256 posts;
        uint256 claimed;
        uint32 generation;
    }

    /// @notice Where the money of a vault is accounted for; the sum is its balance.
    struct Accounts {
        uint256 free;
        uint256 allotted;
        uint256 unclaimed;
        uint256 provider;
        uint256 router;
        uint256 treasury;
        uint256 validators;
        uint256 buyback;
    }

    function setUp() public {
        dollar = new TestDollar();
        registry = new ProviderRegistry();
        VaultParams memory p =
            VaultParams(WINDOW, 600, SETTLE_DELAY, CLAIM_MIN, 150, 50, 50, 50, TREASURY, POOL, BUYBACK);
        vault = new OpenVault(dollar, registry, p, address(0xad));
        vm.prank(PROVIDER);
        registry.register(keccak256("endpoint"), new bytes(64), "XA", PROVIDER);
    }

    // -------------------------------------------------------------------------------------------------- arbitrary states

    /// @notice Any state of the three parties in which what the invariants say holds, with the tokens that belong to it.
    function arrange(Book calldata b, uint40 time) internal {
        vm.assume(time != 0);
        vm.assume(b.debited <= b.cap);
        vm.assume(b.claimedGross <= b.debitedTotal);
        vm.assume(b.releasedTotal <= b.capTotal);
        vm.assume(b.debitedTotal <= b.capTotal - b.releasedTotal);
        if (b.live) vm.assume(uint256(b.debitedTotal) + b.cap - b.debited <= uint256(b.capTotal) - b.releasedTotal);
        vm.assume(b.claimed <= b.claimedGross);
        if (b.pendingAt == 0) vm.assume(b.pendingGross == 0); // kept by any call: check_M11_no_call_leaves_a_gross_without_a_root
        vm.assume(b.posts < type(uint40).max); // a million years of posts
        vault.put(DEV, ROUTER, PROVIDER, b);
        uint256 held = total(accounts());
        vm.assume(held <= vault.MAX_HELD());
        dollar.mint(address(vault), held);
        vm.warp(time);
    }

    function sums() internal view returns (Sums memory s) {
        VaultState.Allotment memory a = vault.liveOf(DEV, ROUTER);
        uint128 cap;
        (s.capTotal, s.released, s.debitedTotal, s.claimedGross) = totals();
        (, cap) = vault.claimable(ROUTER);
        s.claimableGross = cap;
        (s.cap, s.debited, s.generation) = (a.cap, a.debited, a.generation);
        s.free = vault.free(DEV);
        s.posts = vault.postsOf(ROUTER);
        s.claimed = vault.claimed(ROUTER, PROVIDER, 1);
    }

    /// @dev Unchecked: nothing here can overflow, and a revert would end a proof where it must fail.
    function accounts() internal view returns (Accounts memory a) {
        VaultState.Allotment memory held = vault.liveOf(DEV, ROUTER);
        (,, uint256 debited, uint256 claimed) = totals();
        unchecked {
            a.free = vault.free(DEV);
            a.allotted = held.live ? uint256(held.cap) - held.debited : 0;
            a.unclaimed = debited - claimed;
            a.provider = vault.owed(PROVIDER);
            a.router = vault.owed(ROUTER);
            (a.treasury, a.validators, a.buyback) = vault.owedProtocol();
        }
    }

    function total(Accounts memory a) internal pure returns (uint256) {
        unchecked {
            return a.free + a.allotted + a.unclaimed + a.provider + a.router + a.treasury + a.validators + a.buyback;
        }
    }

    function sumOf(Split memory parts) internal pure returns (uint256) {
        return uint256(parts.provider) + parts.router + parts.treasury + parts.validators + parts.buyback;
    }

    /// @notice What the accounts must be once a claim of `delta` was split into `parts`.
    function afterClaim(Accounts memory a, uint256 delta, Split memory parts) internal pure returns (Accounts memory) {
        unchecked {
            return Accounts({
                free: a.free,
                allotted: a.allotted,
                unclaimed: a.unclaimed - delta,
                provider: a.provider + parts.provider,
                router: a.router + parts.router,
                treasury: a.treasury + parts.treasury,
                validators: a.validators + parts.validators,
                buyback: a.buyback + parts.buyback
            });
        }
    }

    function totals() internal view returns (uint256, uint256, uint256, uint256) {
        (uint128 a, uint128 b, uint128 c, uint128 d) = vault.totals(ROUTER);
        return (a, b, c, d);
    }

    function conserved() internal view {
        VaultState.Allotment memory a = vault.liveOf(DEV, ROUTER);
        (,, uint256 debited, uint256 claimed) = totals();
        assert(claimed <= debited && a.debited <= a.cap);
        assert(dollar.balanceOf(address(vault)) == total(accounts()));
    }

    // ------------------------------------------------------------------------------------------------- M1 `conservation`

    function check_M1_deposit_conserves(Book calldata b, uint40 time, uint128 amount) external {
        arrange(b, time);
        vm.assume(amount <= type(uint64).max);
        dollar.mint(DEV, amount);
        vm.prank(DEV);
        dollar.approve(address(vault), amount);
        vm.prank(DEV);
        try vault.deposit(amount) {} catch { return; }
        conserved();
    }

    function check_M1_withdraw_conserves(Book calldata b, uint40 time, uint128 amount) external {
        arrange(b, time);
        vm.prank(DEV);
        try vault.withdraw(amount) {} catch { return; }
        conserved();
    }

    function check_M1_allot_conserves(Book calldata b, uint40 time, uint128 cap, uint64 expiry) external {
        arrange(b, time);
        vm.prank(DEV);
        try vault.allot(ROUTER, cap, expiry) {} catch { return; }
        conserved();
    }

    function check_M1_topUp_conserves(Book calldata b, uint40 time, uint128 addCap, uint64 expiry) external {
        arrange(b, time);
        vm.prank(DEV);
        try vault.topUp(ROUTER, addCap, expiry) {} catch { return; }
        conserved();
    }

    function check_M1_release_conserves(Book calldata b, uint40 time, address caller) external {
        arrange(b, time);
        vm.prank(caller);
        try vault.release(DEV, ROUTER) {} catch { return; }
        conserved();
    }

    function check_M1_syncDebits_conserves(Book calldata b, uint40 time, uint32 generation, uint128 debit) external {
        arrange(b, time);
        if (!sync(generation, debit)) return;
        conserved();
    }

    /// @notice A claim is proved in two steps: the sum of all accounts at once, with the division of the split in it, is beyond the
    /// solvers. This is the first: each account alone gets its share of what is claimed, and nothing else moves.
    function check_M1_claim_moves_each_share_and_nothing_else(Book calldata b, uint40 time, uint128 lifetime) external {
        arrange(b, time);
        Accounts memory a = accounts();
        uint256 balance = dollar.balanceOf(address(vault));
        if (!claim(lifetime, 0)) return;
        uint256 claimed = vault.claimed(ROUTER, PROVIDER, 1);
        assert(claimed >= b.claimed && claimed - b.claimed <= a.unclaimed);
        uint256 delta = claimed - b.claimed;
        Split memory parts = SettlementLib.split(uint128(delta), vault.feeSchedule(1));
        vm.assume(sumOf(parts) == delta); // check_M6_the_shares_sum_to_the_claim
        Accounts memory moved = afterClaim(a, delta, parts);
        Accounts memory now_ = accounts();
        assert(dollar.balanceOf(address(vault)) == balance);
        assert(now_.free == moved.free);
        assert(now_.allotted == moved.allotted);
        assert(now_.unclaimed == moved.unclaimed);
        assert(now_.provider == moved.provider);
        assert(now_.router == moved.router);
        assert(now_.treasury == moved.treasury);
        assert(now_.validators == moved.validators);
        assert(now_.buyback == moved.buyback);
    }

    /// @notice The second step: accounts that moved in that way have the sum that they had.
    function check_M1_shares_that_sum_to_a_claim_conserve(Accounts calldata a, Split calldata parts) external pure {
        assert(total(afterClaim(a, sumOf(parts), parts)) == total(a));
    }

    function check_M1_collect_conserves(Book calldata b, uint40 time, bool router) external {
        arrange(b, time);
        try vault.collect(router ? ROUTER : PROVIDER) {} catch { return; }
        conserved();
    }

    function check_M1_collectProtocol_conserves(Book calldata b, uint40 time) external {
        arrange(b, time);
        try vault.collectProtocol() {} catch { return; }
        conserved();
    }

    // ------------------------------------------------------------------------------------ M2, M4, M8: any call by anybody

    function anyCall(address caller) internal returns (bool done) {
        bytes memory data = svm.createCalldata("PaymentVault");
        vm.prank(caller);
        (done,) = address(vault).call(data);
    }

    function check_M2_no_call_lifts_a_debit_above_the_cap(Book calldata b, uint40 time, address caller) external {
        arrange(b, time);
        if (!anyCall(caller)) return;
        Sums memory s = sums();
        assert(s.debited <= s.cap);
    }

    function check_M4_no_call_of_another_lowers_a_free_balance(Book calldata b, uint40 time, address caller) external {
        arrange(b, time);
        vm.assume(caller != DEV);
        if (!anyCall(caller)) return;
        assert(vault.free(DEV) >= b.free);
    }

    function check_M8_no_call_lowers_a_lifetime_sum(Book calldata b, uint40 time, address caller) external {
        arrange(b, time);
        Sums memory s = sums();
        if (!anyCall(caller)) return;
        Sums memory t = sums();
        assert(t.capTotal >= s.capTotal && t.released >= s.released);
        assert(t.debitedTotal >= s.debitedTotal && t.claimedGross >= s.claimedGross);
        assert(t.claimed >= s.claimed && t.generation >= s.generation);
        assert(t.generation != s.generation || t.debited >= s.debited);
    }

    // ------------------------------------------------------------------------------------ what a settlement may and must do

    function check_M3_no_debit_after_release_or_of_another_generation(Book calldata b, uint40 time, uint32 generation, uint128 debit)
        external
    {
        arrange(b, time);
        if (!sync(generation, debit)) return;
        assert(b.live && generation == b.generation && debit >= b.debited && debit <= b.cap);
    }

    function check_M9_no_claim_is_paid_twice(Book calldata b, uint40 time, uint128 lifetime) external {
        arrange(b, time);
        if (!claim(lifetime, 0)) return;
        Sums memory s = sums();
        assert(s.claimed <= lifetime);
        assert(s.claimed - b.claimed == s.claimedGross - b.claimedGross);
        assert(s.claimedGross <= s.debitedTotal);
        assert(!claim(lifetime, 0));
    }

    function check_M10_nothing_is_claimed_from_another_root_than_the_claimable_one(
        Book calldata b,
        uint40 time,
        uint128 lifetime,
        bytes32 debitRoot
    ) external {
        arrange(b, time);
        if (!claim(lifetime, debitRoot)) return;
        bytes32 leaf = SettlementLib.providerLeaf(ROUTER, PROVIDER, 1, lifetime);
        assert(b.claimableRoot == SettlementLib.payRoot(leaf, debitRoot));
    }

    function check_M11_no_pending_root_exceeds_what_is_allotted(Book calldata b, uint40 time, bytes32 root, uint128 gross)
        external
    {
        arrange(b, time);
        vm.assume(root != 0);
        vm.prank(ROUTER);
        try vault.postBatch(bytes32("jobs"), 1, root, gross, bytes32("content")) {} catch { return; }
        (, uint128 pending,) = vault.pendingOf(ROUTER);
        assert(pending == gross && gross <= b.capTotal - b.releasedTotal);
    }

    /// @notice What the packed record relies on where it writes a new pending root over the old one.
    function check_M11_no_call_leaves_a_gross_without_a_root(Book calldata b, uint40 time, address caller) external {
        arrange(b, time);
        if (!anyCall(caller)) return;
        (uint64 since, uint128 gross) = vault.pendingWords(ROUTER);
        assert(since != 0 || gross == 0);
    }

    /// @notice The first claim is cut to what is debited and marks no more than it pays; once `more` is debited, the next claim of the
    /// same leaf pays the rest as far as it goes.
    function check_M12_the_rest_of_a_partial_claim_stays_claimable(Book calldata b, uint40 time, uint128 lifetime, uint64 more)
        external
    {
        arrange(b, time);
        vm.assume(b.live && more >= CLAIM_MIN && more <= b.cap - b.debited);
        bytes32 debits = SettlementLib.debitLeaf(ROUTER, DEV, b.generation, b.debited + more);
        if (!claim(lifetime, debits)) return;
        (,,, uint256 claimedGross) = totals();
        uint128 paid = uint128(b.claimed + claimedGross - b.claimedGross);
        assert(vault.claimed(ROUTER, PROVIDER, 1) == paid);
        vm.assume(lifetime >= paid + CLAIM_MIN);
        if (!syncWith(providerLeaf(lifetime), b.generation, b.debited + more)) return;
        if (!claim(lifetime, debits)) return;
        uint128 rest = lifetime - paid;
        assert(vault.claimed(ROUTER, PROVIDER, 1) == paid + (rest < more ? rest : more));
    }

    function check_X1_anybody_can_release_in_time_and_the_developer_withdraws_all(Book calldata b, uint40 time, address caller)
        external
    {
        arrange(b, time);
        vm.assume(b.live && time >= uint256(b.expiry) + SETTLE_DELAY);
        vm.prank(caller);
        try vault.release(DEV, ROUTER) {} catch { assert(false); }
        uint128 all = vault.free(DEV);
        assert(all == uint128(b.free) + b.cap - b.debited);
        if (all == 0) return;
        vm.prank(DEV);
        try vault.withdraw(all) {} catch { assert(false); }
        assert(dollar.balanceOf(DEV) == all);
    }

    // -------------------------------------------------------------------------------------------------------- helpers

    function providerLeaf(uint128 lifetime) internal pure returns (bytes32) {
        return SettlementLib.providerLeaf(ROUTER, PROVIDER, 1, lifetime);
    }

    function claim(uint128 lifetime, bytes32 debitRoot) internal returns (bool) {
        try vault.claim(ROUTER, PROVIDER, 1, lifetime, providerLeaf(lifetime), debitRoot, new bytes32[](0)) {
            return true;
        } catch {
            return false;
        }
    }

    function sync(uint32 generation, uint128 debit) internal returns (bool) {
        return syncWith(0, generation, debit);
    }

    function syncWith(bytes32 providerRoot, uint32 generation, uint128 debit) internal returns (bool) {
        DebitEntry[] memory entries = new DebitEntry[](1);
        entries[0] = DebitEntry(DEV, generation, debit, new bytes32[](0));
        bytes32 leaf = SettlementLib.debitLeaf(ROUTER, DEV, generation, debit);
        try vault.syncDebits(ROUTER, providerRoot, leaf, entries) {
            return true;
        } catch {
            return false;
        }
    }
}
