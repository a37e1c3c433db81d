// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PaymentVault} from "../../src/PaymentVault.sol";
import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {TestDollar} from "../../src/TestDollar.sol";
import {DebitEntry, FeeSchedule, VaultParams} from "../../src/interfaces/IPaymentVault.sol";
import {SettlementLib} from "../../src/libraries/SettlementLib.sol";
import {Test} from "../utils/Test.sol";
import {Tree} from "../utils/Tree.sol";

/// @notice A small market that acts at random: two developers, two routers, two providers. It keeps its own books, so that the
/// invariants compare the vault with what people did, and it tries what must be refused. Nothing it does may revert.
contract VaultHandler is Test {
    uint256 internal constant ACTORS = 2;
    uint256 internal constant ROUTERS = 2;

    /// @notice What a payout root of a router says: lifetime sums, and the debits with their generations.
    struct Snapshot {
        uint128[ACTORS] gross;
        uint32[ACTORS] generation;
        uint128[ACTORS] debit;
    }

    PaymentVault public immutable vault;
    ProviderRegistry public immutable registry;
    TestDollar public immutable dollar;
    address internal immutable verdict;
    uint64 internal immutable WINDOW;
    uint64 internal immutable SETTLE_DELAY;
    uint128 internal immutable CLAIM_MIN;
    address internal immutable treasury;
    address internal immutable validatorsPool;
    address internal immutable buyback;

    address[] internal developers;
    address[] internal routers;
    address[] internal providers;

    Snapshot[ROUTERS] internal current;
    Snapshot[ROUTERS] internal pending;
    Snapshot[ROUTERS] internal claimable;

    /// @notice Tokens sent to the vault without a deposit.
    uint256 public donated;
    /// @notice What each developer should have free.
    mapping(address developer => uint256) public expectedFree;
    /// @notice Debits that the vault booked, over all generations.
    mapping(address router => uint256) public booked;
    /// @notice What claims should have earned each party, collected or not.
    mapping(address who => uint256) public earned;
    /// @notice What each party collected.
    mapping(address who => uint256) public collected;
    /// @notice How often each kind of step had an effect, so that a run can be seen to do something.
    mapping(bytes32 step => uint256) public count;

    uint256[5][ROUTERS] internal lastTotals;

    constructor(PaymentVault vault_, ProviderRegistry registry_, TestDollar dollar_, address verdict_) {
        (vault, registry, dollar, verdict) = (vault_, registry_, dollar_, verdict_);
        VaultParams memory p = vault_.params();
        (WINDOW, SETTLE_DELAY, CLAIM_MIN) = (p.window, p.settleDelay, p.claimMin);
        (treasury, validatorsPool, buyback) = (p.treasury, p.validatorsPool, p.buyback);
        for (uint256 i; i < ACTORS; ++i) {
            developers.push(address(uint160(0xd000 + i)));
            providers.push(address(uint160(0xa000 + i)));
            vm.prank(providers[i]);
            registry.register(keccak256(abi.encode(i)), new bytes(64), "XA", providers[i]);
        }
        routers.push(address(uint160(0xe000)));
        routers.push(address(uint160(0xe001)));
        for (uint256 i; i < ACTORS; ++i) {
            _deposit(developers[i], 1e9);
        }
    }

    // ------------------------------------------------------------------------------------------------- what is looked at

    function actors() external view returns (address[] memory, address[] memory, address[] memory) {
        return (developers, routers, providers);
    }

    function claimableGross(uint256 r, uint256 p) external view returns (uint128) {
        return claimable[r].gross[p];
    }

    // ------------------------------------------------------------------------------------------------------------- steps

    /// @notice After every step: lifetime sums have not fallen.
    modifier monotone() {
        _;
        for (uint256 i; i < ROUTERS; ++i) {
            uint256[5] memory now_;
            (now_[0], now_[1], now_[2], now_[3]) = vault.totals(routers[i]);
            (, now_[4]) = vault.claimable(routers[i]);
            for (uint256 j; j < 5; ++j) {
                vm.assertGe(now_[j], lastTotals[i][j], "a lifetime sum fell");
            }
            lastTotals[i] = now_;
        }
    }

    function warp(uint32 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 1, 2 hours));
    }

    function donate(uint16 amount) external {
        dollar.mint(address(vault), amount);
        donated += amount;
    }

    function deposit(uint256 seed, uint40 amount) external monotone {
        _deposit(developers[seed % ACTORS], uint40(bound(amount, 1, 1e9)));
        ++count["deposit"];
    }

    function withdraw(uint256 seed, uint128 amount) external monotone {
        address d = developers[seed % ACTORS];
        uint256 free = vault.free(d);
        if (free == 0) return;
        amount = uint128(bound(amount, 1, free));
        vm.prank(d);
        vault.withdraw(amount);
        expectedFree[d] -= amount;
        ++count["withdraw"];
    }

    function allot(uint256 seed, uint128 cap, uint32 life) external monotone {
        (uint256 d, uint256 r, bool found) = pair(seed, false);
        uint256 free = vault.free(developers[d]);
        if (!found || free == 0) return;
        cap = uint128(bound(cap, free / 2 + 1, free));
        uint64 expiry = uint64(block.timestamp + bound(life, 12 hours, 10 days));
        (uint32 generation,,,,,) = vault.allotment(developers[d], routers[r]);
        vm.prank(developers[d]);
        vault.allot(routers[r], cap, expiry);
        expectedFree[developers[d]] -= cap;
        current[r].generation[d] = generation + 1;
        current[r].debit[d] = 0;
        ++count["allot"];
    }

    function topUp(uint256 seed, uint128 addCap, uint32 life) external monotone {
        (uint256 d, uint256 r, bool found) = pair(seed, true);
        (,,,, uint64 expiry,) = vault.allotment(developers[d], routers[r]);
        if (!found || block.timestamp >= expiry) return;
        addCap = uint128(bound(addCap, 0, vault.free(developers[d])));
        vm.prank(developers[d]);
        vault.topUp(routers[r], addCap, life % 2 == 0 ? 0 : expiry + uint64(bound(life, 0, 1 days)));
        expectedFree[developers[d]] -= addCap;
        ++count["topUp"];
    }

    function revoke(uint256 seed) external monotone {
        (uint256 d, uint256 r, bool found) = pair(seed, true);
        if (!found || seed % 2 == 0) return;
        vm.prank(developers[d]);
        vault.revoke(routers[r]);
        ++count["revoke"];
    }

    function release(uint256 seed, bool patient) external monotone {
        (uint256 d, uint256 r, bool found) = pair(seed, true);
        if (!found) return;
        (, uint128 cap, uint128 debited,, uint64 expiry,) = vault.allotment(developers[d], routers[r]);
        if (patient && block.timestamp < expiry + SETTLE_DELAY) vm.warp(expiry + SETTLE_DELAY);
        bool refused = block.timestamp < expiry + SETTLE_DELAY;
        try vault.release(developers[d], routers[r]) {
            vm.assertTrue(!refused, "released before its time");
            expectedFree[developers[d]] += cap - debited;
            ++count["release"];
        } catch {
            vm.assertTrue(refused, "not released at its time");
        }
    }

    /// @notice M7: new fee versions come, and what was issued under the first one is split by the first one.
    function addFeeVersion(uint16[4] calldata bps) external monotone {
        if (vault.latestFeeVersion() >= 4) return;
        FeeSchedule memory fee = FeeSchedule(bps[0] % 501, bps[1] % 167, bps[2] % 167, bps[3] % 167);
        vm.prank(vault.admin());
        vault.addFeeVersion(fee);
        ++count["fee version"];
    }

    /// @notice M2, M9, M10: what nobody may do is refused at any time: verdicts of strangers, pools below a claim, other roots.
    function trespass(uint256 seed, uint128 amount) external monotone {
        address r = routers[seed % ROUTERS];
        address stranger = address(uint160(0xbad0 + seed % 3));
        vm.startPrank(stranger);
        mustRefuse(abi.encodeCall(vault.voidPending, (r)));
        mustRefuse(abi.encodeCall(vault.withdraw, (amount)));
        mustRefuse(abi.encodeCall(vault.allot, (r, amount, uint64(block.timestamp + 1 days))));
        mustRefuse(abi.encodeCall(vault.revoke, (r)));
        mustRefuse(abi.encodeCall(vault.setVerdict, (stranger)));
        mustRefuse(abi.encodeCall(vault.setAdmin, (stranger)));
        mustRefuse(abi.encodeCall(vault.addFeeVersion, (FeeSchedule(0, 0, 0, 0))));
        bytes32 leaf = SettlementLib.providerLeaf(r, providers[0], 1, amount);
        mustRefuse(abi.encodeCall(vault.claim, (r, providers[0], 1, amount, leaf, bytes32(seed), new bytes32[](0))));
        vm.stopPrank();
        ++count["trespass"];
    }

    function mustRefuse(bytes memory data) internal {
        (bool done,) = address(vault).call(data);
        vm.assertTrue(!done, "a trespass was accepted");
    }

    /// @notice A day on which all goes well: charges, a payout root, its window, debits, claims. Any of it may still be refused.
    function goodDay(uint256 seed, uint128 one, uint128 two) external monotone {
        seed %= 64;
        _charge(seed, seed / 2, one, false);
        _charge(seed + 1, seed / 4, two, false);
        for (uint256 r; r < ROUTERS; ++r) {
            _promote(r);
            _post(r, true);
            _promote(r);
            _sync(r);
            _claim(r);
        }
        ++count["good day"];
    }

    function charge(uint256 seed, uint256 p, uint128 amount, bool dishonest) external {
        _charge(seed, p, amount, dishonest);
    }

    /// @notice Off chain: a developer pays a provider through a router. A dishonest router charges beyond the cap; the vault must not
    /// let that through.
    function _charge(uint256 seed, uint256 p, uint128 amount, bool dishonest) internal {
        (uint256 d, uint256 r, bool found) = pair(seed, true);
        if (!found) return;
        p %= ACTORS;
        (, uint128 cap,,,,) = vault.allotment(developers[d], routers[r]);
        uint128 room = cap > current[r].debit[d] ? cap - current[r].debit[d] : 0;
        if (dishonest && amount % 8 == 0) room = cap + 1;
        if (room == 0) return;
        amount = uint128(bound(amount, room / 8, room / 2 + 1));
        current[r].debit[d] += amount;
        current[r].gross[p] += amount;
        ++count["charge"];
    }

    function post(uint256 r, bool withRoot) external monotone {
        _post(r % ROUTERS, withRoot);
    }

    function _post(uint256 r, bool withRoot) internal {
        (,, uint64 postedAt) = vault.pendingOf(routers[r]);
        bool through = postedAt != 0 && block.timestamp >= postedAt + WINDOW;
        uint128 sum = current[r].gross[0] + current[r].gross[1];
        (uint128 capTotal, uint128 releasedTotal,,) = vault.totals(routers[r]);
        bool refused = withRoot && ((postedAt != 0 && !through) || sum > capTotal - releasedTotal);
        bytes32 root = withRoot ? payRoot(current[r], r) : bytes32(0);
        vm.prank(routers[r]);
        try vault.postBatch(keccak256("jobs"), 1, root, sum, keccak256("content")) {
            vm.assertTrue(!refused, "a root was accepted that must be refused");
            if (through) claimable[r] = pending[r];
            if (withRoot) pending[r] = current[r];
            ++count[withRoot ? bytes32("post root") : bytes32("post jobs")];
        } catch {
            vm.assertTrue(refused, "a root was refused that must be accepted");
        }
    }

    function promote(uint256 r) external monotone {
        _promote(r % ROUTERS);
    }

    function _promote(uint256 r) internal {
        (bytes32 root,, uint64 postedAt) = vault.pendingOf(routers[r]);
        if (root == bytes32(0)) return;
        if (block.timestamp < postedAt + WINDOW) {
            try vault.promote(routers[r]) {
                revert("promoted before its window passed");
            } catch {
                vm.warp(postedAt + WINDOW);
            }
        }
        vault.promote(routers[r]);
        claimable[r] = pending[r];
        ++count["promote"];
    }

    function voidPending(uint256 r, uint256 luck) external monotone {
        r %= ROUTERS;
        (bytes32 root,,) = vault.pendingOf(routers[r]);
        if (root == bytes32(0) || luck % 3 != 0) return;
        vm.prank(verdict);
        vault.voidPending(routers[r]);
        ++count["void"];
    }

    function sync(uint256 r) external monotone {
        _sync(r % ROUTERS);
    }

    function _sync(uint256 r) internal {
        for (uint256 d; d < ACTORS; ++d) {
            syncOne(r, d);
        }
    }

    function syncOne(uint256 r, uint256 d) internal {
        Snapshot memory s = claimable[r];
        bool refused = mustRefuseDebit(s, r, d);
        (,, uint128 debited,,,) = vault.allotment(developers[d], routers[r]);
        bytes32[] memory leaves = debitLeaves(s, r);
        DebitEntry[] memory entries = new DebitEntry[](1);
        entries[0] = DebitEntry(developers[d], s.generation[d], s.debit[d], Tree.proof(leaves, d));
        try vault.syncDebits(routers[r], Tree.root(providerLeaves(s, r)), Tree.root(leaves), entries) {
            vm.assertTrue(!refused, "a debit was booked that must be refused");
            booked[routers[r]] += s.debit[d] - debited;
            ++count["sync"];
        } catch {
            vm.assertTrue(refused, "a debit was refused that must be booked");
        }
    }

    function mustRefuseDebit(Snapshot memory s, uint256 r, uint256 d) internal view returns (bool) {
        (bytes32 root,) = vault.claimable(routers[r]);
        (uint32 generation, uint128 cap, uint128 debited,,, bool live) = vault.allotment(developers[d], routers[r]);
        if (root == bytes32(0) || !live || generation != s.generation[d]) return true;
        return s.debit[d] > cap || s.debit[d] < debited;
    }

    function claim(uint256 r) external monotone {
        _claim(r % ROUTERS);
    }

    function _claim(uint256 r) internal {
        for (uint256 p; p < ACTORS; ++p) {
            claimOne(r, p);
        }
    }

    function claimOne(uint256 r, uint256 p) internal {
        Snapshot memory s = claimable[r];
        uint128 delta = claimableNow(s, r, p);
        (bytes32 root,) = vault.claimable(routers[r]);
        bytes32[] memory leaves = providerLeaves(s, r);
        bytes32[] memory proof = Tree.proof(leaves, p);
        bytes32 debitRoot = Tree.root(debitLeaves(s, r));
        try vault.claim(routers[r], providers[p], 1, s.gross[p], Tree.root(leaves), debitRoot, proof) {
            vm.assertGe(delta, CLAIM_MIN, "a claim below the minimum was paid");
            book(routers[r], providers[p], delta);
            ++count["claim"];
        } catch {
            vm.assertTrue(root == bytes32(0) || delta < CLAIM_MIN, "a claim was refused that must be paid");
        }
    }

    function claimableNow(Snapshot memory s, uint256 r, uint256 p) internal view returns (uint128 delta) {
        (,, uint128 debitedTotal, uint128 claimedGross) = vault.totals(routers[r]);
        uint128 before = vault.claimed(routers[r], providers[p], 1);
        delta = s.gross[p] > before ? s.gross[p] - before : 0;
        if (delta > debitedTotal - claimedGross) delta = debitedTotal - claimedGross;
    }

    function collect(uint256 seed) external monotone {
        address who = seed % 2 == 0 ? providers[seed / 2 % ACTORS] : routers[seed / 2 % ROUTERS];
        uint256 due = vault.owed(who);
        if (due == 0) return;
        vault.collect(who);
        collected[who] += due;
        ++count["collect"];
    }

    function collectProtocol() external monotone {
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        vault.collectProtocol();
        collected[treasury] += a;
        collected[validatorsPool] += b;
        collected[buyback] += c;
        ++count["collect protocol"];
    }

    // ----------------------------------------------------------------------------------------------------------- helpers

    function _deposit(address d, uint40 amount) internal {
        dollar.mint(d, amount);
        vm.startPrank(d);
        dollar.approve(address(vault), amount);
        vault.deposit(amount);
        vm.stopPrank();
        expectedFree[d] += amount;
    }

    /// @notice The first pair of developer and router from `seed` on that has a live allotment, or that has none.
    function pair(uint256 seed, bool wanted) internal view returns (uint256 d, uint256 r, bool found) {
        uint256 start = seed % (ACTORS * ROUTERS);
        for (uint256 i; i < ACTORS * ROUTERS; ++i) {
            (d, r) = ((start + i) % ACTORS, (start + i) / ACTORS % ROUTERS);
            (,,,,, bool live) = vault.allotment(developers[d], routers[r]);
            if (live == wanted) return (d, r, true);
        }
    }

    /// @notice The split of a claim by its words in the design, not by the contract's library.
    function book(address router, address provider, uint256 delta) internal {
        uint256 toRouter = delta * 150 / 10_000;
        uint256 toPool = delta * 50 / 10_000;
        earned[router] += toRouter;
        earned[provider] += delta - toRouter - 3 * toPool;
        earned[treasury] += toPool;
        earned[validatorsPool] += toPool;
        earned[buyback] += toPool;
    }

    function providerLeaves(Snapshot memory s, uint256 r) internal view returns (bytes32[] memory leaves) {
        leaves = new bytes32[](ACTORS);
        for (uint256 i; i < ACTORS; ++i) {
            leaves[i] = SettlementLib.providerLeaf(routers[r], providers[i], 1, s.gross[i]);
        }
    }

    function debitLeaves(Snapshot memory s, uint256 r) internal view returns (bytes32[] memory leaves) {
        leaves = new bytes32[](ACTORS);
        for (uint256 i; i < ACTORS; ++i) {
            leaves[i] = SettlementLib.debitLeaf(routers[r], developers[i], s.generation[i], s.debit[i]);
        }
    }

    function payRoot(Snapshot memory s, uint256 r) internal view returns (bytes32) {
        return SettlementLib.payRoot(Tree.root(providerLeaves(s, r)), Tree.root(debitLeaves(s, r)));
    }
}
