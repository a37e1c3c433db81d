// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {StakeRegistry} from "../src/StakeRegistry.sol";
import {IProviderRegistry, Offer} from "../src/interfaces/IProviderRegistry.sol";
import {StakeParams} from "../src/interfaces/IStakeRegistry.sol";
import {StakeRegistryErrors as Errors, StakeRegistryEvents as Events} from "../src/libraries/StakeRegistryLib.sol";
import {Market} from "./utils/Market.sol";
import {FeeToken} from "./utils/Tokens.sol";

contract StakeRegistryTest is Market {
    uint8 internal constant PROVIDER = 1;
    address internal who = named("provider");
    address internal challenger = named("challenger");
    address[] internal developers;
    uint128[] internal charges;

    function give(address to, uint128 amount) internal {
        vm.prank(holder);
        stoa.transfer(to, amount);
        vm.prank(to);
        stoa.approve(address(stakes), amount);
    }

    function staked(uint8 role, uint128 amount) internal {
        give(who, amount);
        vm.prank(who);
        stakes.stake(role, amount);
    }

    function check(uint128 active, uint128 unbonding) internal view {
        (uint128 a, uint128 u,) = stakes.stakeOf(PROVIDER, who);
        vm.assertEq(a, active, "active");
        vm.assertEq(u, unbonding, "unbonding");
        vm.assertEq(stakes.slashable(PROVIDER, who), active + unbonding, "slashable");
    }

    function slash(uint16 bps) internal {
        vm.prank(slasher);
        stakes.slash(keccak256("fault"), who, PROVIDER, bps, developers, charges, challenger);
    }

    // ------------------------------------------------------------------------------------------------------ stake, unbond

    function test_stake_counts_for_one_role_only() public {
        give(who, 7);
        vm.prank(who);
        vm.expectEmit();
        emit Events.Staked(PROVIDER, who, 7, 7);
        stakes.stake(PROVIDER, 7);
        check(7, 0);
        vm.assertEq(stakes.slashable(2, who), 0);
    }

    function test_stake_of_nothing_or_in_no_role_is_refused() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAmount.selector));
        stakes.stake(PROVIDER, 0);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownRole.selector, 0));
        stakes.stake(0, 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownRole.selector, 4));
        stakes.stake(4, 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownRole.selector, 4));
        stakes.minimum(4, who);
    }

    function test_stake_with_permit_needs_no_approval() public {
        address owner = vm.addr(9);
        vm.prank(holder);
        stoa.transfer(owner, 5);
        bytes32 typeHash = keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");
        bytes32 permit = keccak256(abi.encode(typeHash, owner, address(stakes), 5, 0, block.timestamp));
        (uint8 v, bytes32 r, bytes32 s) =
            vm.sign(9, keccak256(abi.encodePacked(hex"1901", stoa.DOMAIN_SEPARATOR(), permit)));
        vm.prank(owner);
        stakes.stakeWithPermit(PROVIDER, 5, block.timestamp, v, r, s);
        vm.assertEq(stakes.slashable(PROVIDER, owner), 5);
    }

    function test_token_that_takes_a_fee_is_refused() public {
        FeeToken token = new FeeToken();
        StakeRegistry other = new StakeRegistry(token, registry, stakeParams(), admin);
        token.mint(who, 100);
        vm.startPrank(who);
        token.approve(address(other), 100);
        vm.expectRevert(abi.encodeWithSelector(Errors.InexactTransfer.selector, 100, 99));
        other.stake(PROVIDER, 100);
    }

    function test_stake_leaves_after_the_unbonding_time_and_a_second_request_starts_it_again() public {
        staked(PROVIDER, 10);
        vm.startPrank(who);
        vm.expectEmit();
        emit Events.UnbondRequested(PROVIDER, who, 4, uint64(START) + UNBONDING);
        stakes.requestUnbond(PROVIDER, 4);
        check(6, 4);
        vm.warp(START + UNBONDING - 1);
        vm.expectRevert(abi.encodeWithSelector(Errors.StillUnbonding.selector, START + UNBONDING));
        stakes.withdraw(PROVIDER);
        stakes.requestUnbond(PROVIDER, 1);
        vm.warp(START + UNBONDING);
        vm.expectRevert(abi.encodeWithSelector(Errors.StillUnbonding.selector, START + 2 * UNBONDING - 1));
        stakes.withdraw(PROVIDER);
        vm.warp(START + 2 * UNBONDING - 1);
        vm.expectEmit();
        emit Events.StakeWithdrawn(PROVIDER, who, 5);
        stakes.withdraw(PROVIDER);
        check(5, 0);
        vm.assertEq(stoa.balanceOf(who), 5);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingUnbonding.selector));
        stakes.withdraw(PROVIDER);
    }

    function test_unbonding_more_than_is_active_is_refused() public {
        staked(PROVIDER, 10);
        vm.startPrank(who);
        vm.expectRevert(abi.encodeWithSelector(Errors.StakeTooSmall.selector, 11, 10));
        stakes.requestUnbond(PROVIDER, 11);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroAmount.selector));
        stakes.requestUnbond(PROVIDER, 0);
    }

    // ------------------------------------------------------------------------------------------------------------ minimum

    function test_minimum_is_the_largest_of_three_terms_doubled_and_converted_upwards() public {
        // ceil(4,096,000 / 0.5 %) = 819,200,000 is above every floor: 2 x that at 100,000 a token is 16,384 tokens.
        vm.assertEq(stakes.minimum(PROVIDER, who), 16_384e18);
        vm.assertEq(stakes.minimum(2, who), 16_384e18);
        register(who, who);
        Offer[] memory list = new Offer[](1);
        list[0] = Offer(bytes32(0), 1, 60_000_000, 100_001, 0, "fast");
        vm.prank(who);
        registry.setLoadout(list);
        // 100,001 tokens/s at 60 per million is 6,000,060 units a second; 150 s of that.
        vm.assertEq(stakes.minimum(PROVIDER, who), uint256(2 * 150 * 6_000_060) * 1e18 / 100_000);
        vm.assertEq(stakes.minimum(3, who), 16_384e18);
        vm.prank(admin);
        stakes.setStakePrice(3);
        vm.assertEq(stakes.minimum(2, who), (uint256(2 * 819_200_000) * 1e18 + 2) / 3);
    }

    function test_floor_of_the_role_counts_where_jobs_are_cheap() public {
        StakeParams memory p = stakeParams();
        p.jobMax = 1;
        p.validatorFloor = 100e6 + 1;
        StakeRegistry other = new StakeRegistry(IERC20(address(stoa)), registry, p, admin);
        vm.assertEq(other.minimum(1, who), 1_000e18);
        vm.assertEq(other.minimum(2, who), 2_000e18);
        vm.assertEq(other.minimum(3, who), 2_000e18 + 2e13);
        vm.assertEq(keccak256(abi.encode(other.params())), keccak256(abi.encode(p)));
    }

    function test_active_stake_decides_who_is_active() public {
        staked(PROVIDER, 16_384e18 - 1);
        vm.assertEq(stakes.isActive(PROVIDER, who), false);
        staked(PROVIDER, 1);
        vm.assertEq(stakes.isActive(PROVIDER, who), true);
        vm.prank(who);
        stakes.requestUnbond(PROVIDER, 1);
        vm.assertEq(stakes.isActive(PROVIDER, who), false);
    }

    // -------------------------------------------------------------------------------------------------------------- slash

    function test_slash_gives_40_40_and_burns_20_with_the_rounding() public {
        staked(PROVIDER, 10_003);
        developers.push(named("developer"));
        charges.push(7);
        uint256 supply = stoa.totalSupply();
        vm.expectEmit();
        emit Events.Slashed(keccak256("fault"), who, PROVIDER, 10_000, 10_003, 4_001, 4_001, 2_001);
        slash(10_000);
        vm.assertEq(stakes.owed(developers[0]), 4_001);
        vm.assertEq(stakes.owed(challenger), 4_001);
        vm.assertEq(supply - stoa.totalSupply(), 2_001, "burned");
        check(0, 0);
    }

    function test_slash_reaches_stake_that_is_unbonding_but_active_stake_goes_first() public {
        staked(PROVIDER, 100);
        vm.prank(who);
        stakes.requestUnbond(PROVIDER, 80);
        slash(1_000);
        check(10, 80);
        vm.prank(slasher);
        stakes.slash(keccak256("fault 2"), who, PROVIDER, 5_000, developers, charges, challenger);
        check(0, 45);
        vm.warp(block.timestamp + UNBONDING);
        vm.prank(who);
        stakes.withdraw(PROVIDER);
        vm.assertEq(stoa.balanceOf(who), 45);
    }

    function test_several_developers_share_by_charge_and_the_rest_burns() public {
        staked(PROVIDER, 1_000);
        developers = [named("a"), named("b"), named("c")];
        charges = [1, 1, 1];
        uint256 supply = stoa.totalSupply();
        slash(10_000);
        vm.assertEq(stakes.owed(named("a")), 133);
        vm.assertEq(stakes.owed(named("b")), 133);
        vm.assertEq(stakes.owed(named("c")), 133);
        vm.assertEq(supply - stoa.totalSupply(), 1_000 - 400 - 399, "burned");
    }

    function test_share_of_a_missing_role_is_burned() public {
        staked(PROVIDER, 1_000);
        challenger = address(0);
        uint256 supply = stoa.totalSupply();
        slash(10_000);
        vm.assertEq(supply - stoa.totalSupply(), 1_000, "all is burned");
        vm.assertEq(stakes.owed(address(0)), 0);
        staked(PROVIDER, 1_000);
        developers = [address(0), named("a")];
        charges = [3, 1];
        supply = stoa.totalSupply();
        vm.prank(slasher);
        stakes.slash(keccak256("fault 2"), who, PROVIDER, 10_000, developers, charges, address(0));
        vm.assertEq(stakes.owed(named("a")), 100);
        vm.assertEq(supply - stoa.totalSupply(), 900, "burned");
        staked(PROVIDER, 1_000);
        charges = [0, 0];
        vm.prank(slasher);
        stakes.slash(keccak256("fault 3"), who, PROVIDER, 10_000, developers, charges, address(0));
        vm.assertEq(stakes.owed(named("a")), 100);
    }

    function test_fault_is_punished_once() public {
        staked(PROVIDER, 1_000);
        slash(2_500);
        vm.assertEq(stakes.isSlashed(keccak256("fault")), true);
        vm.prank(slasher);
        vm.expectRevert(abi.encodeWithSelector(Errors.AlreadySlashed.selector, keccak256("fault")));
        stakes.slash(keccak256("fault"), who, PROVIDER, 2_500, developers, charges, challenger);
        check(750, 0);
    }

    function test_slash_is_the_slashers_alone_and_within_bounds() public {
        bytes32 fault = keccak256("fault");
        vm.prank(admin);
        vm.expectRevert(abi.encodeWithSelector(Errors.NotAllowed.selector, admin));
        stakes.slash(fault, who, PROVIDER, 1, developers, charges, challenger);
        vm.startPrank(slasher);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadSeverity.selector, 0));
        stakes.slash(fault, who, PROVIDER, 0, developers, charges, challenger);
        vm.expectRevert(abi.encodeWithSelector(Errors.BadSeverity.selector, 10_001));
        stakes.slash(fault, who, PROVIDER, 10_001, developers, charges, challenger);
        developers.push(who);
        vm.expectRevert(abi.encodeWithSelector(Errors.LengthMismatch.selector, 1, 0));
        stakes.slash(fault, who, PROVIDER, 1, developers, charges, challenger);
        developers = new address[](65);
        charges = new uint128[](65);
        vm.expectRevert(abi.encodeWithSelector(Errors.TooManyDevelopers.selector, 65, 64));
        stakes.slash(fault, who, PROVIDER, 1, developers, charges, challenger);
        vm.expectRevert(abi.encodeWithSelector(Errors.UnknownRole.selector, 4));
        stakes.slash(fault, who, 4, 1, developers, charges, challenger);
    }

    function test_awards_are_collected_once_by_anyone_for_their_owner() public {
        staked(PROVIDER, 1_000);
        slash(10_000);
        vm.expectEmit();
        emit Events.AwardsCollected(challenger, 400);
        stakes.collect(challenger);
        vm.assertEq(stoa.balanceOf(challenger), 400);
        vm.expectRevert(abi.encodeWithSelector(Errors.NothingOwed.selector, challenger));
        stakes.collect(challenger);
        vm.assertEq(stoa.balanceOf(address(stakes)), 0);
    }

    // -------------------------------------------------------------------------------------------------------------- admin

    function test_only_the_admin_names_slasher_stake_price_and_admin() public {
        bytes memory refusal = abi.encodeWithSelector(Errors.NotAllowed.selector, who);
        vm.startPrank(who);
        vm.expectRevert(refusal);
        stakes.setSlasher(who);
        vm.expectRevert(refusal);
        stakes.setStakePrice(1);
        vm.expectRevert(refusal);
        stakes.setAdmin(who);
        vm.stopPrank();
        vm.startPrank(admin);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        stakes.setStakePrice(0);
        stakes.setSlasher(who);
        vm.assertEq(stakes.slasher(), who);
        stakes.setAdmin(who);
        vm.assertEq(stakes.admin(), who);
    }

    function test_registry_is_not_built_with_parameters_that_divide_by_zero() public {
        StakeParams memory p = stakeParams();
        p.samplingFloorBps = 0;
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new StakeRegistry(IERC20(address(stoa)), registry, p, admin);
        p = stakeParams();
        p.stakePrice = 0;
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new StakeRegistry(IERC20(address(stoa)), registry, p, admin);
    }

    function test_registry_is_not_built_without_token_or_provider_registry() public {
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new StakeRegistry(IERC20(address(0)), registry, stakeParams(), admin);
        vm.expectRevert(abi.encodeWithSelector(Errors.ZeroParameter.selector));
        new StakeRegistry(IERC20(address(stoa)), IProviderRegistry(address(0)), stakeParams(), admin);
    }
}
