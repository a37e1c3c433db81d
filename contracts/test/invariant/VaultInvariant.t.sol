// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Market} from "../utils/Market.sol";
import {VaultHandler} from "./VaultHandler.sol";

/// @notice The sentences that hold after every call, whatever people do.
contract VaultInvariantTest is Market {
    VaultHandler internal market;
    address[] internal developers;
    address[] internal routers;
    address[] internal providers;

    function setUp() public override {
        super.setUp();
        market = new VaultHandler(vault, registry, dollar, verdict);
        (developers, routers, providers) = market.actors();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(market);
    }

    /// @notice One function, because forge repeats all runs for each: the named sentences below hold after every call.
    function invariant_of_the_vault() public view {
        check_conservation();
        check_free_money_moves_only_by_its_developer();
        check_cap_is_never_exceeded();
        check_claimed_within_debited_within_allotted();
        check_no_double_claim();
        check_splits_are_exact();
    }

    function check_conservation() internal view {
        uint256 sum = accounted(developers, routers, providers);
        vm.assertEq(sum + market.donated(), dollar.balanceOf(address(vault)), "money appeared or vanished");
    }

    function check_free_money_moves_only_by_its_developer() internal view {
        for (uint256 i; i < developers.length; ++i) {
            vm.assertEq(vault.free(developers[i]), market.expectedFree(developers[i]), "free balance");
        }
    }

    function check_cap_is_never_exceeded() internal view {
        for (uint256 i; i < developers.length; ++i) {
            for (uint256 j; j < routers.length; ++j) {
                (, uint128 cap, uint128 debited, uint128 released,,) = vault.allotment(developers[i], routers[j]);
                vm.assertLe(uint256(debited) + released, cap, "debited and released above the cap");
            }
        }
    }

    function check_claimed_within_debited_within_allotted() internal view {
        for (uint256 j; j < routers.length; ++j) {
            (uint128 cap, uint128 released, uint128 debited, uint128 claimed) = vault.totals(routers[j]);
            vm.assertLe(claimed, debited, "claimed above debited");
            vm.assertLe(debited, cap - released, "debited above what is allotted");
            vm.assertEq(debited, market.booked(routers[j]), "debited is the sum of the booked debits");
        }
    }

    function check_no_double_claim() internal view {
        for (uint256 j; j < routers.length; ++j) {
            uint256 sum;
            for (uint256 i; i < providers.length; ++i) {
                uint128 claimed = vault.claimed(routers[j], providers[i], 1);
                vm.assertLe(claimed, market.claimableGross(j, i), "claimed above the leaf");
                sum += claimed;
            }
            (,,, uint128 claimedGross) = vault.totals(routers[j]);
            vm.assertEq(sum, claimedGross, "claimed gross is the sum of the claims");
        }
    }

    function check_splits_are_exact() internal view {
        for (uint256 i; i < providers.length; ++i) {
            exact(providers[i], vault.owed(providers[i]));
        }
        for (uint256 j; j < routers.length; ++j) {
            exact(routers[j], vault.owed(routers[j]));
        }
        (uint128 a, uint128 b, uint128 c) = vault.owedProtocol();
        exact(treasury, a);
        exact(pool, b);
        exact(buyback, c);
    }

    function exact(address who, uint256 owed) internal view {
        vm.assertEq(owed + market.collected(who), market.earned(who), "a share is not what the split gives");
        vm.assertEq(dollar.balanceOf(who), market.collected(who), "paid is not what was collected");
    }

    /// @notice Whatever happened: every developer can leave alone within the bounded time, everybody else is paid, and what stays is
    /// exactly what is debited and not claimed.
    function afterInvariant() public {
        vm.warp(block.timestamp + 30 days + SETTLE_DELAY);
        uint256 stays = market.donated();
        for (uint256 j; j < routers.length; ++j) {
            for (uint256 i; i < developers.length; ++i) {
                (,,,,, bool live) = vault.allotment(developers[i], routers[j]);
                if (live) vault.release(developers[i], routers[j]);
            }
            (,, uint128 debited, uint128 claimed) = vault.totals(routers[j]);
            stays += debited - claimed;
            if (vault.owed(routers[j]) != 0) vault.collect(routers[j]);
        }
        for (uint256 i; i < developers.length; ++i) {
            if (vault.owed(providers[i]) != 0) vault.collect(providers[i]);
            uint128 free = vault.free(developers[i]);
            vm.prank(developers[i]);
            if (free != 0) vault.withdraw(free);
        }
        vault.collectProtocol();
        vm.assertEq(dollar.balanceOf(address(vault)), stays, "left in the vault");
    }
}
