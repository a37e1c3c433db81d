// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Offer} from "../interfaces/IProviderRegistry.sol";

/// @title Errors of the provider registry
library ProviderRegistryErrors {
    /// @notice The proof of the endpoint is not an ed25519 signature: it has `length` bytes and not 64.
    error BadProofLength(uint256 length);
    /// @notice The endpoint id is zero.
    error ZeroEndpoint();
    /// @notice The payee is the zero address.
    error ZeroPayee();
    /// @notice `region` is not two letters A to Z.
    error BadRegion(bytes2 region);
    /// @notice `account` has not registered as a provider.
    error NotRegistered(address account);
    /// @notice `account` is leaving; it must register again before it may offer models.
    error Leaving(address account);
    /// @notice The loadout has `count` offers, more than `max`.
    error TooManyOffers(uint256 count, uint256 max);
    /// @notice Offer number `index` names a tier that does not exist.
    error UnknownTier(uint256 index, uint8 tier);
    /// @notice A text of `length` bytes is longer than `max`.
    error TextTooLong(uint256 length, uint256 max);
}

/// @title Events of the provider registry: all that a reader needs to rebuild it
library ProviderRegistryEvents {
    /// @notice A provider registered or changed its record. Readers check `endpointProof` before they dial.
    event ProviderRegistered(
        address indexed provider, bytes32 indexed endpointId, bytes endpointProof, bytes2 region, address payee
    );
    /// @notice A provider's whole offer from now on.
    event LoadoutSet(address indexed provider, Offer[] offers);
    /// @notice A provider takes no new jobs from now on.
    event ProviderLeaving(address indexed provider);
    /// @notice A router registered or changed its record. Readers check `endpointProof` before they dial.
    event RouterRegistered(address indexed router, bytes32 indexed endpointId, bytes endpointProof, string addresses);
}
