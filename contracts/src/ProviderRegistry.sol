// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IProviderRegistry, Offer} from "./interfaces/IProviderRegistry.sol";
import {ProviderRegistryErrors as Errors, ProviderRegistryEvents as Events} from "./libraries/ProviderRegistryLib.sol";

/// @title Who provides and who routes, and where to reach them
/// @notice See IProviderRegistry. Immutable, without admin, without money.
contract ProviderRegistry is IProviderRegistry {
    /// @notice The most offers in one loadout: it bounds the cost of a change.
    uint256 public constant MAX_OFFERS = 64;
    /// @notice The most bytes of a model name.
    uint256 public constant MAX_NAME = 128;
    /// @notice The most bytes of a router's addresses.
    uint256 public constant MAX_ADDRESSES = 1024;
    /// @notice The highest verification tier, `zk`.
    uint8 public constant MAX_TIER = 4;

    struct Provider {
        address payee;
        bytes2 region;
        bool leaving;
        bytes32 endpointId;
        uint256 throughputValue;
    }

    struct Router {
        bytes32 endpointId;
        string addresses;
    }

    mapping(address => Provider) private _providers;
    mapping(address => Router) private _routers;

    /// @inheritdoc IProviderRegistry
    function register(bytes32 endpointId, bytes calldata endpointProof, bytes2 region, address payee) external {
        _checkEndpoint(endpointId, endpointProof);
        if (payee == address(0)) revert Errors.ZeroPayee();
        if (!_isLetter(region[0]) || !_isLetter(region[1])) revert Errors.BadRegion(region);
        Provider storage record = _providers[msg.sender];
        record.payee = payee;
        record.region = region;
        record.leaving = false;
        record.endpointId = endpointId;
        emit Events.ProviderRegistered(msg.sender, endpointId, endpointProof, region, payee);
    }

    /// @inheritdoc IProviderRegistry
    function setLoadout(Offer[] calldata offers) external {
        Provider storage record = _registered(msg.sender);
        if (record.leaving) revert Errors.Leaving(msg.sender);
        if (offers.length > MAX_OFFERS) revert Errors.TooManyOffers(offers.length, MAX_OFFERS);
        uint256 value;
        for (uint256 i; i < offers.length; ++i) {
            Offer calldata offer = offers[i];
            if (offer.tier > MAX_TIER) revert Errors.UnknownTier(i, offer.tier);
            _checkLength(bytes(offer.name).length, MAX_NAME);
            value += uint256(offer.tps) * offer.outputPrice;
        }
        record.throughputValue = value;
        emit Events.LoadoutSet(msg.sender, offers);
    }

    /// @inheritdoc IProviderRegistry
    function announceLeave() external {
        Provider storage record = _registered(msg.sender);
        record.leaving = true;
        emit Events.ProviderLeaving(msg.sender);
    }

    /// @inheritdoc IProviderRegistry
    function registerRouter(bytes32 endpointId, bytes calldata endpointProof, string calldata addresses) external {
        _checkEndpoint(endpointId, endpointProof);
        _checkLength(bytes(addresses).length, MAX_ADDRESSES);
        _routers[msg.sender] = Router(endpointId, addresses);
        emit Events.RouterRegistered(msg.sender, endpointId, endpointProof, addresses);
    }

    /// @inheritdoc IProviderRegistry
    function endpointMessage(address account) external view returns (bytes32) {
        return keccak256(abi.encode(keccak256("stoa.endpoint.v1"), block.chainid, address(this), account));
    }

    /// @inheritdoc IProviderRegistry
    function provider(address account)
        external
        view
        returns (address payee, bytes2 region, bool leaving, bytes32 endpointId)
    {
        Provider storage record = _providers[account];
        return (record.payee, record.region, record.leaving, record.endpointId);
    }

    /// @inheritdoc IProviderRegistry
    function payeeOf(address account) external view returns (address) {
        return _providers[account].payee;
    }

    /// @inheritdoc IProviderRegistry
    function isLeaving(address account) external view returns (bool) {
        return _providers[account].leaving;
    }

    /// @inheritdoc IProviderRegistry
    function throughputValue(address account) external view returns (uint256) {
        return _providers[account].throughputValue;
    }

    /// @inheritdoc IProviderRegistry
    function router(address account) external view returns (bytes32 endpointId, string memory addresses) {
        Router storage record = _routers[account];
        return (record.endpointId, record.addresses);
    }

    function _registered(address account) private view returns (Provider storage record) {
        record = _providers[account];
        if (record.payee == address(0)) revert Errors.NotRegistered(account);
    }

    function _checkEndpoint(bytes32 endpointId, bytes calldata endpointProof) private pure {
        if (endpointId == bytes32(0)) revert Errors.ZeroEndpoint();
        if (endpointProof.length != 64) revert Errors.BadProofLength(endpointProof.length);
    }

    function _checkLength(uint256 length, uint256 max) private pure {
        if (length > max) revert Errors.TextTooLong(length, max);
    }

    function _isLetter(bytes1 char) private pure returns (bool) {
        return char >= "A" && char <= "Z";
    }
}
