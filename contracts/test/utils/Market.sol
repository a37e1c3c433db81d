// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PaymentVault} from "../../src/PaymentVault.sol";
import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {StakeRegistry} from "../../src/StakeRegistry.sol";
import {StoaToken} from "../../src/StoaToken.sol";
import {TestDollar} from "../../src/TestDollar.sol";
import {DebitEntry, VaultParams} from "../../src/interfaces/IPaymentVault.sol";
import {StakeParams} from "../../src/interfaces/IStakeRegistry.sol";
import {SettlementLib} from "../../src/libraries/SettlementLib.sol";
import {Test} from "./Test.sol";
import {Tree} from "./Tree.sol";

/// @notice All contracts deployed with the numbers of the default profile, and the steps that many tests share.
abstract contract Market is Test {
    uint256 internal constant START = 1_790_000_000;
    uint64 internal constant WINDOW = 90;
    uint64 internal constant NOTICE = 600;
    uint64 internal constant SETTLE_DELAY = 3600;
    uint128 internal constant CLAIM_MIN = 10_000;
    uint64 internal constant UNBONDING = 7 days;
    bytes32 internal constant JOBS = keccak256("jobs");
    bytes32 internal constant CONTENT = keccak256("content");

    address internal admin = named("admin");
    address internal verdict = named("verdict");
    address internal slasher = named("slasher");
    address internal treasury = named("treasury");
    address internal pool = named("validators pool");
    address internal buyback = named("buyback");
    address internal holder = named("holder");

    StoaToken internal stoa;
    TestDollar internal dollar;
    ProviderRegistry internal registry;
    StakeRegistry internal stakes;
    PaymentVault internal vault;

    function setUp() public virtual {
        vm.warp(START);
        stoa = new StoaToken(holder);
        dollar = new TestDollar();
        registry = new ProviderRegistry();
        stakes = new StakeRegistry(stoa, registry, stakeParams(), admin);
        vault = new PaymentVault(dollar, registry, vaultParams(), admin);
        vm.startPrank(admin);
        stakes.setSlasher(slasher);
        vault.setVerdict(verdict);
        vm.stopPrank();
    }

    function vaultParams() internal view returns (VaultParams memory) {
        return VaultParams(WINDOW, NOTICE, SETTLE_DELAY, CLAIM_MIN, 150, 50, 50, 50, treasury, pool, buyback);
    }

    function stakeParams() internal pure returns (StakeParams memory) {
        return StakeParams(UNBONDING, 150, 50e6, 100e6, 100e6, 4_096_000, 50, 100_000);
    }

    function deposit(address developer, uint128 amount) internal {
        dollar.mint(developer, amount);
        vm.startPrank(developer);
        dollar.approve(address(vault), amount);
        vault.deposit(amount);
        vm.stopPrank();
    }

    function allot(address developer, address router, uint128 cap) internal {
        deposit(developer, cap);
        vm.prank(developer);
        vault.allot(router, cap, uint64(block.timestamp + 1 days));
    }

    function register(address provider, address payee) internal {
        vm.prank(provider);
        registry.register(keccak256(abi.encode(provider)), new bytes(64), "XA", payee);
    }

    function post(address router, bytes32 payRoot, uint128 gross) internal {
        vm.prank(router);
        vault.postBatch(JOBS, 10_000, payRoot, gross, CONTENT);
    }

    /// @notice Posts a payout root and waits until it is claimable.
    function settle(address router, bytes32 providerRoot, bytes32 debitRoot, uint128 gross) internal {
        post(router, SettlementLib.payRoot(providerRoot, debitRoot), gross);
        vm.warp(block.timestamp + WINDOW);
        vault.promote(router);
    }

    /// @notice A payout root with one earner and one payer; its trees are single leaves and its proofs empty.
    function settleOne(address router, address provider, address developer, uint128 gross)
        internal
        returns (bytes32 providerRoot, bytes32 debitRoot)
    {
        providerRoot = SettlementLib.providerLeaf(router, provider, 1, gross);
        debitRoot = SettlementLib.debitLeaf(router, developer, 1, gross);
        settle(router, providerRoot, debitRoot, gross);
    }

    function entry(address developer, uint32 generation, uint128 debit)
        internal
        pure
        returns (DebitEntry[] memory entries)
    {
        entries = new DebitEntry[](1);
        entries[0] = DebitEntry(developer, generation, debit, new bytes32[](0));
    }

    /// @notice Right side of the conservation equation for these accounts, without surplus.
    function accounted(address[] memory developers, address[] memory routers, address[] memory others)
        internal
        view
        returns (uint256 sum)
    {
        for (uint256 i; i < developers.length; ++i) {
            sum += vault.free(developers[i]);
            for (uint256 j; j < routers.length; ++j) {
                (, uint128 cap, uint128 debited, uint128 released,,) = vault.allotment(developers[i], routers[j]);
                sum += cap - debited - released;
            }
        }
        for (uint256 j; j < routers.length; ++j) {
            (,, uint128 debitedTotal, uint128 claimedGross) = vault.totals(routers[j]);
            sum += debitedTotal - claimedGross + vault.owed(routers[j]);
        }
        for (uint256 i; i < others.length; ++i) {
            sum += vault.owed(others[i]);
        }
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        sum += uint256(a) + b + c;
    }
}
