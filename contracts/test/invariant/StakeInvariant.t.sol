// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {StakeRegistry} from "../../src/StakeRegistry.sol";
import {StoaToken} from "../../src/StoaToken.sol";
import {Market} from "../utils/Market.sol";
import {Test} from "../utils/Test.sol";

/// @notice Stakers, faults and awards at random; nothing it does may revert.
contract StakeHandler is Test {
    StakeRegistry internal immutable stakes;
    StoaToken internal immutable stoa;
    address internal immutable holder;
    address internal immutable slasher;

    /// @notice Sums over the whole run.
    uint256 public stakedIn;
    uint256 public withdrawn;
    uint256 public awardsPaid;
    uint256 public burned;
    /// @notice What slashes took, by the words of the design.
    uint256 public taken;
    /// @notice How often each kind of step had an effect, so that a run can be seen to do something.
    mapping(bytes32 step => uint256) public count;

    constructor(StakeRegistry stakes_, StoaToken stoa_, address holder_, address slasher_) {
        (stakes, stoa, holder, slasher) = (stakes_, stoa_, holder_, slasher_);
    }

    function account(uint256 seed) public pure returns (address) {
        return address(uint160(0xf000 + seed % 4));
    }

    function stake(uint256 seed, uint8 role, uint96 amount) external {
        amount = uint96(bound(amount, 1, 1_000_000e18));
        vm.prank(holder);
        stoa.transfer(account(seed), amount);
        vm.startPrank(account(seed));
        stoa.approve(address(stakes), amount);
        stakes.stake(role % 3 + 1, amount);
        vm.stopPrank();
        stakedIn += amount;
    }

    function requestUnbond(uint256 seed, uint8 role, uint128 amount) external {
        (uint128 active,,) = stakes.stakeOf(role % 3 + 1, account(seed));
        if (active == 0) return;
        vm.prank(account(seed));
        stakes.requestUnbond(role % 3 + 1, uint128(bound(amount, 1, active)));
    }

    function withdraw(uint256 seed, uint8 role) external {
        (, uint128 unbonding, uint64 withdrawableAt) = stakes.stakeOf(role % 3 + 1, account(seed));
        vm.prank(account(seed));
        try stakes.withdraw(role % 3 + 1) {
            vm.assertTrue(unbonding != 0 && block.timestamp >= withdrawableAt, "stake left before its time");
            withdrawn += unbonding;
        } catch {
            vm.assertTrue(unbonding == 0 || block.timestamp < withdrawableAt, "stake was kept beyond its time");
        }
    }

    function warp(uint32 seconds_) external {
        vm.warp(block.timestamp + bound(seconds_, 1, 5 days));
    }

    function slash(uint256 fault, uint256 seed, uint8 role, uint16 bps, uint128[2] calldata weights, bool challenged)
        external
    {
        bytes32 id = bytes32(fault % 64);
        role = role % 3 + 1;
        bps = uint16(bound(bps, 1, 10_000));
        uint256 left = stakes.slashable(role, account(seed));
        uint256 sigma = left * bps / 10_000;
        left -= sigma;
        burned += stoa.totalSupply();
        bool again = stakes.isSlashed(id);
        vm.assertEq(trySlash(id, seed, role, bps, weights, challenged), !again);
        burned -= stoa.totalSupply();
        if (again) return;
        vm.assertEq(stakes.slashable(role, account(seed)), left, "a slash takes its severity exactly");
        taken += sigma;
        ++count["slash"];
    }

    function trySlash(bytes32 id, uint256 seed, uint8 role, uint16 bps, uint128[2] calldata weights, bool challenged)
        internal
        returns (bool)
    {
        address[] memory developers = new address[](2);
        uint128[] memory charges = new uint128[](2);
        (developers[0], developers[1]) = (account(seed % 4 + 1), account(seed % 4 + 2));
        (charges[0], charges[1]) = (weights[0], weights[1]);
        address challenger = challenged ? account(seed % 4 + 3) : address(0);
        vm.prank(slasher);
        try stakes.slash(id, account(seed), role, bps, developers, charges, challenger) {
            return true;
        } catch {
            return false;
        }
    }

    /// @notice Nobody but the slasher slashes, and no slash is for more than all.
    function trespass(uint256 seed, uint8 role, uint16 bps) external {
        address[] memory none = new address[](0);
        uint128[] memory nothing = new uint128[](0);
        bytes32 id = keccak256(abi.encode(seed));
        vm.prank(account(seed));
        try stakes.slash(id, account(seed % 4 + 1), role % 3 + 1, 10_000, none, nothing, account(seed)) {
            revert("a stranger slashed");
        } catch {}
        vm.prank(slasher);
        try stakes.slash(id, account(seed), role % 3 + 1, uint16(bound(bps, 10_001, 65_535)), none, nothing, address(0)) {
            revert("a slash above everything");
        } catch {}
        ++count["trespass"];
    }

    function collect(uint256 seed) external {
        uint128 due = stakes.owed(account(seed));
        if (due == 0) return;
        stakes.collect(account(seed));
        awardsPaid += due;
    }
}

/// @notice The sentences about stake that hold after every call.
contract StakeInvariantTest is Market {
    StakeHandler internal market;

    function setUp() public override {
        super.setUp();
        market = new StakeHandler(stakes, stoa, holder, slasher);
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(market);
    }

    function held() internal view returns (uint256 sum) {
        for (uint256 i; i < 4; ++i) {
            for (uint8 role = 1; role <= 3; ++role) {
                sum += stakes.slashable(role, market.account(i));
            }
            sum += stakes.owed(market.account(i));
        }
    }

    function invariant_of_the_stake() public view {
        check_stake_is_conserved();
        check_supply_falls_only_by_what_slashes_burn();
        check_a_slash_is_awarded_or_burned();
    }

    function check_a_slash_is_awarded_or_burned() internal view {
        uint256 awarded = market.awardsPaid();
        for (uint256 i; i < 4; ++i) {
            awarded += stakes.owed(market.account(i));
        }
        vm.assertEq(awarded + market.burned(), market.taken(), "sigma is awards and burned");
        vm.assertLe(awarded * 10, market.taken() * 8, "more than 40 and 40 of 100 were awarded");
    }

    /// @notice Whatever happened, everybody gets out what is left after the unbonding time, and awards are paid to the last unit.
    function afterInvariant() public {
        for (uint256 i; i < 4; ++i) {
            address who = market.account(i);
            for (uint8 role = 1; role <= 3; ++role) {
                (uint128 active,,) = stakes.stakeOf(role, who);
                if (active == 0) continue;
                vm.prank(who);
                stakes.requestUnbond(role, active);
            }
        }
        vm.warp(block.timestamp + UNBONDING);
        for (uint256 i; i < 4; ++i) {
            address who = market.account(i);
            for (uint8 role = 1; role <= 3; ++role) {
                if (stakes.slashable(role, who) == 0) continue;
                vm.prank(who);
                stakes.withdraw(role);
            }
            if (stakes.owed(who) != 0) stakes.collect(who);
        }
        vm.assertEq(stoa.balanceOf(address(stakes)), 0, "left in the registry");
    }

    function check_stake_is_conserved() internal view {
        uint256 left = market.stakedIn() - market.withdrawn() - market.awardsPaid() - market.burned();
        vm.assertEq(left, held(), "stake appeared or vanished");
        vm.assertEq(stoa.balanceOf(address(stakes)), held(), "the registry holds what it owes");
    }

    function check_supply_falls_only_by_what_slashes_burn() internal view {
        vm.assertEq(stoa.totalSupply(), stoa.SUPPLY() - market.burned(), "supply");
    }
}
