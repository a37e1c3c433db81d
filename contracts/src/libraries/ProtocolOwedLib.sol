// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice What the three pools are owed, in one word: treasury in bits 0 to 79, validators in 80 to 159, buyback in 160 to 239.
type ProtocolOwed is uint256;

using ProtocolOwedLib for ProtocolOwed global;

/// @title Sums of the three pools in one word, so that a claim pays for one slot
library ProtocolOwedLib {
    uint256 private constant MASK = type(uint80).max;

    /// @notice Adds to each sum. The caller guarantees that each stays below 2^80: all are part of what the vault holds, below 2^64.
    function plus(ProtocolOwed self, uint128 treasury, uint128 validators, uint128 buyback)
        internal
        pure
        returns (ProtocolOwed)
    {
        unchecked {
            uint256 added = uint256(treasury) | uint256(validators) << 80 | uint256(buyback) << 160;
            return ProtocolOwed.wrap(ProtocolOwed.unwrap(self) + added);
        }
    }

    /// @notice The three sums.
    function parts(ProtocolOwed self) internal pure returns (uint128 treasury, uint128 validators, uint128 buyback) {
        uint256 word = ProtocolOwed.unwrap(self);
        return (uint128(word & MASK), uint128(word >> 80 & MASK), uint128(word >> 160 & MASK));
    }
}
