// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {PaymentVault} from "../src/PaymentVault.sol";
import {FeeSchedule, VaultParams} from "../src/interfaces/IPaymentVault.sol";
import {IProviderRegistry} from "../src/interfaces/IProviderRegistry.sol";
import {VaultErrors as Errors} from "../src/libraries/VaultErrors.sol";
import {VaultEvents as Events} from "../src/libraries/VaultEvents.sol";
import {Market} from "./utils/Market.sol";
import {FeeToken, HookToken} from "./utils/Tokens.sol";

/// @notice Deposits, allotments and exits of a developer, and the admin's few rights.
contract VaultDeveloperTest is Market {
    address internal dev = named("developer");
    address internal router = named("router");

    function expiry() internal view returns (uint64) {
        return uint64(block.timestamp + 1 days);
    }

    // -------------------------------------------------------------------------------------------------- deposit, withdraw

    function test_deposit_is_free_money_of_the_caller() public {
        dollar.mint(dev, 5e6);
        vm.startPrank(dev);
        dollar.approve(address(vault), 5e6);
        vm.expectEmit();
        emit Events.Deposited(dev, dev, 5e6);
        vault.deposit(5e6);
        vm.assertEq(vault.free(dev), 5e6);
        vm.assertEq(dollar.balanceOf(address(vault)), 5e6);
    }

    function test_deposit_for_another_developer_is_his_money() public {
        address payer = named("payer");
        dollar.mint(payer, 5e6);
        vm.startPrank(payer);
        dollar.approve(address(vault), 5e6);
        vault.depositFor(dev, 5e6);
        vm.assertEq(vault.free(dev), 5e6);
        vm.assertEq(vault.free(payer), 0);
    }

    function test_deposit_for_nobody_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAddress.selector));
        vault.depositFor(address(0), 1);
    }

    function test_deposit_of_nothing_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAmount.selector));
        vault.deposit(0);
    }

    function test_deposit_beyond_what_the_vault_may_hold_is_refused() public {
        uint256 max = vault.MAX_HELD();
        deposit(dev, uint128(max - 1));
        vm.expectRevert(abi.encodeWithSelector(Errors.VaultFull.selector, max + 1, max));
        vault.deposit(2);
        deposit(dev, 1);
    }

    function permitDigest(address owner, uint256 amount, uint256 deadline) internal view returns (bytes32) {
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 permit = keccak256(abi.encode(typeHash, owner, address(vault), amount, dollar.nonces(owner), deadline));
        return keccak256(abi.encodePacked(hex"1901", dollar.DOMAIN_SEPARATOR(), permit));
    }

    function test_deposit_with_permit_needs_no_approval_and_survives_a_front_run_permit() public {
        address owner = vm.addr(7);
        dollar.mint(owner, 5e6);
        uint256 deadline = block.timestamp + 60;
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(7, permitDigest(owner, 5e6, deadline));
        dollar.permit(owner, address(vault), 5e6, deadline, v, r, s);
        vm.prank(owner);
        vault.depositWithPermit(5e6, deadline, v, r, s);
        vm.assertEq(vault.free(owner), 5e6);
    }

    function test_deposit_with_a_bad_permit_is_refused() public {
        dollar.mint(dev, 5e6);
        vm.prank(dev);
        vm.expectRevert();
        vault.depositWithPermit(5e6, block.timestamp + 60, 27, bytes32(uint256(1)), bytes32(uint256(2)));
        vm.assertEq(vault.free(dev), 0);
    }

    function test_token_that_takes_a_fee_is_refused() public {
        FeeToken token = new FeeToken();
        PaymentVault other = new PaymentVault(token, registry, vaultParams(), admin);
        token.mint(dev, 100);
        vm.startPrank(dev);
        token.approve(address(other), 100);
        vm.expectRevert(abi.encodeWithSelector(Errors.InexactTransfer.selector, 100, 99));
        other.deposit(100);
    }

    function test_token_hook_cannot_enter_the_vault_again() public {
        HookToken token = new HookToken();
        PaymentVault other = new PaymentVault(token, registry, vaultParams(), admin);
        token.mint(dev, 100);
        vm.startPrank(dev);
        token.approve(address(other), 100);
        token.arm(address(other), abi.encodeCall(other.withdraw, (1)));
        vm.expectRevert(abi.encodeWithSelector(ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector));
        other.deposit(100);
    }

    function test_withdraw_gives_free_money_back_at_once() public {
        deposit(dev, 5e6);
        vm.prank(dev);
        vm.expectEmit();
        emit Events.Withdrawn(dev, 2e6);
        vault.withdraw(2e6);
        vm.assertEq(vault.free(dev), 3e6);
        vm.assertEq(dollar.balanceOf(dev), 2e6);
    }

    function test_withdraw_beyond_the_free_balance_is_refused() public {
        deposit(dev, 5);
        vm.startPrank(dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.InsufficientFree.selector, dev, 5, 6));
        vault.withdraw(6);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAmount.selector));
        vault.withdraw(0);
    }

    // --------------------------------------------------------------------------------------------------------- allotments

    function check(uint32 generation, uint128 cap, uint128 released, uint64 end, bool live) internal view {
        (uint32 g, uint128 c, uint128 d, uint128 r, uint64 e, bool l) = vault.allotment(dev, router);
        vm.assertEq(g, generation, "generation");
        vm.assertEq(c, cap, "cap");
        vm.assertEq(d, 0, "debited");
        vm.assertEq(r, released, "released");
        vm.assertEq(e, end, "expiry");
        vm.assertEq(l, live);
    }

    function test_allotment_binds_money_but_moves_no_token() public {
        deposit(dev, 10);
        vm.prank(dev);
        vm.expectEmit();
        emit Events.Allotted(dev, router, 1, 7, expiry());
        vault.allot(router, 7, expiry());
        vm.assertEq(vault.free(dev), 3);
        vm.assertEq(dollar.balanceOf(address(vault)), 10);
        check(1, 7, 0, expiry(), true);
        (uint128 capTotal,,,) = vault.totals(router);
        vm.assertEq(capTotal, 7);
    }

    function test_second_allotment_to_the_same_router_is_refused_while_the_first_lives() public {
        allot(dev, router, 7);
        deposit(dev, 1);
        vm.warp(block.timestamp + 20 days);
        vm.prank(dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.AllotmentLive.selector, dev, router, 1));
        vault.allot(router, 1, expiry());
    }

    function test_allotment_needs_a_router_an_amount_free_money_and_an_expiry_within_30_days() public {
        deposit(dev, 10);
        uint64 soonest = uint64(block.timestamp + 1);
        uint64 latest = uint64(block.timestamp + 30 days);
        vm.startPrank(dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAddress.selector));
        vault.allot(address(0), 1, latest);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAmount.selector));
        vault.allot(router, 0, latest);
        vm.expectRevert(abi.encodeWithSelector(Errors.InsufficientFree.selector, dev, 10, 11));
        vault.allot(router, 11, latest);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadExpiry.selector, soonest - 1, soonest, latest));
        vault.allot(router, 1, soonest - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadExpiry.selector, latest + 1, soonest, latest));
        vault.allot(router, 1, latest + 1);
        vault.allot(router, 1, latest);
    }

    function test_top_up_raises_cap_and_expiry() public {
        allot(dev, router, 7);
        uint64 first = expiry();
        deposit(dev, 5);
        vm.startPrank(dev);
        vault.topUp(router, 3, 0);
        check(1, 10, 0, first, true);
        vault.topUp(router, 0, first + 60);
        check(1, 10, 0, first + 60, true);
        vm.expectEmit();
        emit Events.ToppedUp(dev, router, 1, 12, first + 61);
        vault.topUp(router, 2, first + 61);
        vm.assertEq(vault.free(dev), 0);
    }

    function test_top_up_cannot_shorten_overdraw_or_revive() public {
        vm.startPrank(dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.NoAllotment.selector, dev, router));
        vault.topUp(router, 1, 0);
        vm.stopPrank();
        allot(dev, router, 7);
        uint64 end = expiry();
        uint64 latest = uint64(block.timestamp + 30 days);
        vm.startPrank(dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadExpiry.selector, end - 1, end, latest));
        vault.topUp(router, 0, end - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadExpiry.selector, latest + 1, end, latest));
        vault.topUp(router, 0, latest + 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.InsufficientFree.selector, dev, 0, 1));
        vault.topUp(router, 1, 0);
        vm.warp(end);
        vm.expectRevert(abi.encodeWithSelector(Errors.AllotmentExpired.selector, end));
        vault.topUp(router, 0, end + 1);
    }

    function test_revoke_ends_after_the_notice_and_never_later_than_agreed() public {
        allot(dev, router, 7);
        uint64 end = expiry();
        vm.startPrank(dev);
        vm.expectEmit();
        emit Events.Revoked(dev, router, 1, uint64(block.timestamp) + NOTICE);
        vault.revoke(router);
        check(1, 7, 0, uint64(START) + NOTICE, true);
        vm.warp(START + NOTICE - 1);
        vault.revoke(router);
        check(1, 7, 0, uint64(START) + NOTICE, true);
        vm.assertTrue(end > START + NOTICE, "the notice was the shorter time");
        vm.expectRevert(abi.encodeWithSelector(Errors.NoAllotment.selector, dev, named("other router")));
        vault.revoke(named("other router"));
    }

    function test_anyone_releases_the_rest_after_expiry_and_settle_delay() public {
        allot(dev, router, 7);
        uint64 releasable = expiry() + SETTLE_DELAY;
        vm.warp(releasable - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotReleasable.selector, releasable));
        vault.release(dev, router);
        vm.warp(releasable);
        vm.expectEmit();
        emit Events.Released(dev, router, 1, 7);
        vault.release(dev, router);
        vm.assertEq(vault.free(dev), 7);
        check(1, 7, 7, releasable - SETTLE_DELAY, false);
        vm.expectRevert(abi.encodeWithSelector(Errors.NoAllotment.selector, dev, router));
        vault.release(dev, router);
        vm.prank(dev);
        vault.allot(router, 5, expiry());
        check(2, 5, 0, expiry(), true);
        (uint128 capTotal, uint128 releasedTotal,,) = vault.totals(router);
        vm.assertEq(capTotal, 12);
        vm.assertEq(releasedTotal, 7);
    }

    // -------------------------------------------------------------------------------------------------------------- admin

    function test_only_the_admin_names_verdict_admin_and_fee_versions() public {
        bytes memory refusal = abi.encodeWithSelector(Errors.NotAllowed.selector, dev);
        vm.startPrank(dev);
        vm.expectRevert(refusal);
        vault.setVerdict(dev);
        vm.expectRevert(refusal);
        vault.setAdmin(dev);
        vm.expectRevert(refusal);
        vault.addFeeVersion(FeeSchedule(1, 1, 1, 1));
        vm.stopPrank();
        vm.startPrank(admin);
        vault.setVerdict(named("new verdict"));
        vm.assertEq(vault.verdict(), named("new verdict"));
        vault.setAdmin(dev);
        vm.assertEq(vault.admin(), dev);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAllowed.selector, admin));
        vault.setVerdict(admin);
    }

    function test_fee_versions_are_added_within_bounds_and_never_change() public {
        vm.startPrank(admin);
        vm.expectEmit();
        emit Events.FeeVersionAdded(2, FeeSchedule(500, 100, 200, 200));
        uint16 version = vault.addFeeVersion(FeeSchedule(500, 100, 200, 200));
        vm.assertEq(version, 2, "the next version");
        vm.assertEq(vault.latestFeeVersion(), 2);
        vm.assertEq(vault.feeSchedule(1).routerBps, 150);
        vm.assertEq(vault.feeSchedule(2).validatorsBps, 200);
        vm.expectRevert(abi.encodeWithSelector(Errors.FeeTooHigh.selector, 501, 0));
        vault.addFeeVersion(FeeSchedule(501, 0, 0, 0));
        vm.expectRevert(abi.encodeWithSelector(Errors.FeeTooHigh.selector, 0, 501));
        vault.addFeeVersion(FeeSchedule(0, 167, 167, 167));
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownFeeVersion.selector, 3));
        vault.feeSchedule(3);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownFeeVersion.selector, 0));
        vault.feeSchedule(0);
    }

    function test_vault_is_not_built_without_receivers_or_with_fees_out_of_bounds() public {
        VaultParams memory p = vaultParams();
        p.buyback = address(0);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAddress.selector));
        new PaymentVault(dollar, registry, p, admin);
        p = vaultParams();
        p.routerBps = 501;
        vm.expectRevert(abi.encodeWithSelector(Errors.FeeTooHigh.selector, 501, 150));
        new PaymentVault(dollar, registry, p, admin);
    }

    function test_vault_is_not_built_without_token_or_registry() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAddress.selector));
        new PaymentVault(IERC20(address(0)), registry, vaultParams(), admin);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAddress.selector));
        new PaymentVault(dollar, IProviderRegistry(address(0)), vaultParams(), admin);
    }

    function test_vault_is_not_built_with_a_time_that_never_ends() public {
        uint64 max = 30 days;
        bytes memory refusal = abi.encodeWithSelector(Errors.DelayTooLong.selector, max + 1, max);
        VaultParams memory p = vaultParams();
        (p.window, p.notice, p.settleDelay) = (max, max, max);
        new PaymentVault(dollar, registry, p, admin);
        p.window = max + 1;
        vm.expectRevert(refusal);
        new PaymentVault(dollar, registry, p, admin);
        (p.window, p.notice) = (max, max + 1);
        vm.expectRevert(refusal);
        new PaymentVault(dollar, registry, p, admin);
        (p.notice, p.settleDelay) = (max, max + 1);
        vm.expectRevert(refusal);
        new PaymentVault(dollar, registry, p, admin);
    }

    function test_parameters_can_be_read() public view {
        vm.assertEq(keccak256(abi.encode(vault.params())), keccak256(abi.encode(vaultParams())));
        vm.assertEq(address(vault.TOKEN()), address(dollar));
        vm.assertEq(address(vault.REGISTRY()), address(registry));
    }
}
