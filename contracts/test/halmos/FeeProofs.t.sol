// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FeeSchedule} from "../../src/interfaces/IPaymentVault.sol";
import {SettlementLib, Split} from "../../src/libraries/SettlementLib.sol";
import {SlashLib, SlashParts} from "../../src/libraries/StakeRegistryLib.sol";
import {Proofs} from "./Proofs.sol";

/// @notice Proofs about the two splits, for every amount and every schedule that the contracts accept.
contract FeeProofs is Proofs {
    /// @notice M6, for every claim that a vault can pay and every fee schedule that it accepts.
    function check_M6_each_share_is_floored(uint64 gross, FeeSchedule calldata fee) external {
        vm.assume(fee.routerBps <= 500);
        vm.assume(uint256(fee.treasuryBps) + fee.validatorsBps + fee.buybackBps <= 500);
        Split memory s = SettlementLib.split(gross, fee);
        floored(s.router, gross, fee.routerBps);
        floored(s.treasury, gross, fee.treasuryBps);
        floored(s.validators, gross, fee.validatorsBps);
        floored(s.buyback, gross, fee.buybackBps);
    }

    /// @notice M6, for every claim, with the schedule of the default profile and with the highest one; four unknown shares at once
    /// are beyond the solvers, and the fuzz test tries them.
    function check_M6_the_shares_sum_to_the_claim(uint64 gross, bool highest) external pure {
        Split memory s = SettlementLib.split(gross, highest ? FeeSchedule(500, 166, 167, 167) : FeeSchedule(150, 50, 50, 50));
        assert(uint256(s.provider) + s.router + s.treasury + s.validators + s.buyback == gross);
        assert(s.provider >= gross - gross / 10);
    }

    /// @notice S1 and S3, for every stake below 2^128 and every severity.
    function check_S1_the_split_of_a_slash_is_exact(uint128 slashable, uint16 severityBps) external {
        vm.assume(severityBps <= 10_000);
        uint128 sigma = SlashLib.sigma(slashable, severityBps);
        assert(sigma <= slashable);
        floored(sigma, slashable, severityBps);
        SlashParts memory parts = SlashLib.split(sigma);
        floored(parts.developer, sigma, 4_000);
        floored(parts.challenger, sigma, 4_000);
    }

    /// @notice `part = floor(whole x bps / 10000)`, said without division. All three are below 2^128: no product overflows.
    function floored(uint128 part, uint128 whole, uint16 bps) internal pure {
        unchecked {
            assert(uint256(part) * 10_000 <= uint256(whole) * bps);
            assert((uint256(part) + 1) * 10_000 > uint256(whole) * bps);
        }
    }
}
