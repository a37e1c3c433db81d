// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ProviderRegistry} from "../../src/ProviderRegistry.sol";
import {StakeRegistry} from "../../src/StakeRegistry.sol";
import {StoaToken} from "../../src/StoaToken.sol";
import {StakeParams} from "../../src/interfaces/IStakeRegistry.sol";
import {SlashLib, SlashParts} from "../../src/libraries/StakeRegistryLib.sol";
import {Proofs} from "./Proofs.sol";

/// @notice Proofs about stake: any active and unbonding stake of an offender, beside its stake in
/// another role and the stake of somebody else.
contract StakeProofs is Proofs {
    address internal constant OFFENDER = address(0xf0);
    address internal constant OTHER = address(0xf1);
    address internal constant DEV = address(0xd0);
    address internal constant CHALLENGER = address(0xc0);
    address internal constant SLASHER = address(0x51);
    uint8 internal constant PROVIDER = 1;
    uint64 internal constant UNBONDING = 7 days;

    StoaToken internal stoa;
    StakeRegistry internal stakes;

    struct Held {
        uint88 active;
        uint88 unbonding;
        uint88 asRouter;
        uint88 other;
    }

    function setUp() public {
        vm.warp(1_790_000_000);
        stoa = new StoaToken(address(this));
        StakeParams memory p = StakeParams(UNBONDING, 150, 50e6, 100e6, 100e6, 4_096_000, 50, 100_000);
        stakes = new StakeRegistry(stoa, new ProviderRegistry(), p, address(this));
        stakes.setSlasher(SLASHER);
    }

    function arrange(Held calldata h) internal {
        uint256 whole = uint256(h.active) + h.unbonding;
        vm.assume(whole + h.asRouter + h.other <= stoa.SUPPLY());
        vm.assume(h.active != 0 && h.unbonding != 0 && h.asRouter != 0 && h.other != 0);
        enter(OFFENDER, PROVIDER, uint128(whole));
        enter(OFFENDER, 2, h.asRouter);
        enter(OTHER, PROVIDER, h.other);
        vm.prank(OFFENDER);
        stakes.requestUnbond(PROVIDER, h.unbonding);
    }

    function enter(address who, uint8 role, uint128 amount) internal {
        stoa.transfer(who, amount);
        vm.prank(who);
        stoa.approve(address(stakes), amount);
        vm.prank(who);
        stakes.stake(role, amount);
    }

    function slash(bytes32 fault, uint16 bps, uint128 charge, bool challenged) internal returns (bool) {
        address[] memory developers = new address[](1);
        uint128[] memory charges = new uint128[](1);
        (developers[0], charges[0]) = (DEV, charge);
        vm.prank(SLASHER);
        try stakes.slash(fault, OFFENDER, PROVIDER, bps, developers, charges, challenged ? CHALLENGER : address(0)) {
            return true;
        } catch {
            return false;
        }
    }

    /// @notice With the split as FeeProofs proves it for every stake: nothing else moves, and the rest is burned.
    function check_S1_a_slash_moves_every_unit_where_it_belongs(Held calldata h, uint16 bps, bool charged, bool challenged)
        external
    {
        arrange(h);
        if (!slash("fault", bps, charged ? 1 : 0, challenged)) return;
        uint128 whole = uint128(h.active) + h.unbonding;
        SlashParts memory parts = SlashLib.split(SlashLib.sigma(whole, bps));
        assert(stakes.owed(DEV) == (charged ? parts.developer : 0));
        assert(stakes.owed(CHALLENGER) == (challenged ? parts.challenger : 0));
        // A slash is at most the stake and its two shares at most the slash: check_S1_the_split_of_a_slash_is_exact.
        unchecked {
            assert(stakes.slashable(PROVIDER, OFFENDER) == whole - parts.sigma);
            uint256 burned = uint256(parts.sigma) - stakes.owed(DEV) - stakes.owed(CHALLENGER);
            assert(stoa.totalSupply() == stoa.SUPPLY() - burned);
            assert(stoa.balanceOf(address(stakes)) == uint256(whole) + h.asRouter + h.other - burned);
        }
    }

    function check_S2_a_fault_is_slashed_once(Held calldata h, bytes32 fault, uint16 bps, uint16 again) external {
        arrange(h);
        if (!slash(fault, bps, 1, true)) return;
        assert(stakes.isSlashed(fault));
        assert(!slash(fault, again, 1, true));
    }

    function check_S3_a_slash_reaches_the_offender_only_and_no_further_than_its_stake(Held calldata h, uint16 bps)
        external
    {
        arrange(h);
        if (!slash("fault", bps, 1, true)) return;
        (uint128 active, uint128 unbonding,) = stakes.stakeOf(PROVIDER, OFFENDER);
        assert(active <= h.active && unbonding <= h.unbonding);
        assert(active == 0 || unbonding == h.unbonding);
        assert(stakes.slashable(PROVIDER, OTHER) == h.other);
        assert(stakes.slashable(2, OFFENDER) == h.asRouter);
    }

    function check_S4_stake_does_not_leave_before_its_time(Held calldata h, uint40 later) external {
        arrange(h);
        vm.warp(block.timestamp + later);
        vm.prank(OFFENDER);
        try stakes.withdraw(PROVIDER) {
            assert(later >= UNBONDING);
            assert(stoa.balanceOf(OFFENDER) == h.unbonding);
            assert(stakes.slashable(PROVIDER, OFFENDER) == h.active);
        } catch {
            assert(later < UNBONDING);
        }
    }
}
