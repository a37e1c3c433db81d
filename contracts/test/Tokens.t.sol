// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Market} from "./utils/Market.sol";

contract TokensTest is Market {
    function test_stoa_has_a_fixed_supply_that_only_burning_lowers() public {
        vm.assertEq(stoa.totalSupply(), 1_000_000_000e18);
        vm.assertEq(stoa.balanceOf(holder), 1_000_000_000e18);
        vm.assertEq(stoa.decimals(), 18);
        vm.prank(holder);
        stoa.burn(1e18);
        vm.assertEq(stoa.totalSupply(), 999_999_999e18);
    }

    function test_stoa_votes_follow_the_delegation_by_block_time() public {
        vm.prank(holder);
        stoa.delegate(named("delegate"));
        vm.warp(block.timestamp + 1);
        vm.assertEq(stoa.getPastVotes(named("delegate"), START), 1_000_000_000e18);
        vm.assertEq(uint256(stoa.clock()), START + 1);
        vm.assertEq(stoa.CLOCK_MODE(), "mode=timestamp");
    }

    function test_test_dollar_says_that_it_is_one_and_anyone_mints_it() public {
        vm.assertEq(dollar.decimals(), 6);
        vm.assertEq(dollar.symbol(), "tUSD");
        vm.assertEq(dollar.name(), "Test Dollar (devnet only)");
        dollar.mint(holder, 5);
        vm.assertEq(dollar.balanceOf(holder), 5);
    }
}
