// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {FeeSchedule} from "../interfaces/IPaymentVault.sol";

/// @notice The parts of a claim; their sum is the claim.
struct Split {
    uint128 provider;
    uint128 router;
    uint128 treasury;
    uint128 validators;
    uint128 buyback;
}

/// @title Leaves, roots and the fee split
/// @dev Leaves are hashed twice, as OpenZeppelin's trees do, so that no inner node can pass for a leaf.
library SettlementLib {
    /// @notice The payout class of all leaves; other classes are reserved.
    uint8 internal constant CLASS = 0;

    /// @notice The leaf of what `provider` earned through `router` under one fee version, over the router's life.
    function providerLeaf(address router, address provider, uint16 feeVersion, uint128 lifetimeGross)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            bytes.concat(keccak256(abi.encode(router, CLASS, provider, feeVersion, lifetimeGross)))
        );
    }

    /// @notice The leaf of what `developer` was charged by `router` over the life of one allotment.
    function debitLeaf(address router, address developer, uint32 generation, uint128 lifetimeDebit)
        internal
        pure
        returns (bytes32)
    {
        return keccak256(
            bytes.concat(keccak256(abi.encode(router, CLASS, developer, generation, lifetimeDebit)))
        );
    }

    /// @notice The payout root over the two trees; two, so that a provider's proof does not grow with the number of developers.
    function payRoot(bytes32 providerRoot, bytes32 debitRoot) internal pure returns (bytes32) {
        return keccak256(abi.encode(providerRoot, debitRoot));
    }

    /// @notice The head of a job chain after one more batch.
    function chain(bytes32 head, bytes32 jobRoot, uint32 jobCount, bytes32 contentId) internal pure returns (bytes32) {
        return keccak256(abi.encode(head, jobRoot, jobCount, contentId));
    }

    /// @notice Splits a claim: each fee share is floored, the provider gets the rest.
    /// @dev Unchecked: the vault bounds the shares to 1,000 of 10,000 together, so their sum is at most a tenth of `gross`.
    function split(uint128 gross, FeeSchedule memory fee) internal pure returns (Split memory parts) {
        unchecked {
            uint256 whole = gross;
            uint256 router = whole * fee.routerBps / 10_000;
            uint256 treasury = whole * fee.treasuryBps / 10_000;
            uint256 validators = whole * fee.validatorsBps / 10_000;
            uint256 buyback = whole * fee.buybackBps / 10_000;
            uint256 provider = whole - router - treasury - validators - buyback;
            return Split(uint128(provider), uint128(router), uint128(treasury), uint128(validators), uint128(buyback));
        }
    }
}
