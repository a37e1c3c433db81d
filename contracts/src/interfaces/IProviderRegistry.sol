// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @notice One model that a provider offers.
/// @param modelRoot Root of the model pack, or zero for an upstream server whose weights are not committed to.
/// @param inputPrice Payment-token units per 10^6 input tokens.
/// @param outputPrice Payment-token units per 10^6 output tokens.
/// @param tps Claimed output tokens per second; it sets the stake that the provider must hold.
/// @param tier Verification tier: 0 none, 1 statistical, 2 exact, 3 tee, 4 zk.
/// @param name The name under which clients ask for the model.
struct Offer {
    bytes32 modelRoot;
    uint128 inputPrice;
    uint128 outputPrice;
    uint32 tps;
    uint8 tier;
    string name;
}

/// @title Who provides and who routes, and where to reach them
/// @notice Every account writes only its own record. There is no admin and nothing here holds money.
interface IProviderRegistry {
    /// @notice The caller registers as a provider, or replaces its record; a leaving provider is then back.
    /// @dev `endpointProof` is the endpoint's ed25519 signature over `endpointMessage(caller)`. The EVM cannot check ed25519: the
    /// event carries the proof and every reader checks it before dialling. Endpoint ids are therefore not unique on chain, or a
    /// stranger could block an id by registering it first with a false proof.
    /// @param endpointId Public ed25519 key of the provider's transport endpoint.
    /// @param endpointProof 64 bytes.
    /// @param region Two letters, ISO 3166-1 alpha-2; devnets use XA, XB, XC.
    /// @param payee Receives what the provider earns.
    function register(bytes32 endpointId, bytes calldata endpointProof, bytes2 region, address payee) external;

    /// @notice A registered provider states all models that it offers; the list before it is void. An empty list offers nothing.
    /// @dev The offers stand in the event only. Stored is the claimed throughput, because the minimum stake follows from it.
    function setLoadout(Offer[] calldata offers) external;

    /// @notice A registered provider says that it takes no new jobs. Its claims and its stake are untouched.
    function announceLeave() external;

    /// @notice The caller publishes where its router is reached, or replaces that record.
    /// @param addresses Comma-separated transport addresses, at most 1,024 bytes.
    function registerRouter(bytes32 endpointId, bytes calldata endpointProof, string calldata addresses) external;

    /// @notice The message that an endpoint signs to prove that it belongs to `account` on this chain and this registry:
    /// `keccak256(abi.encode(keccak256("stoa.endpoint.v1"), chain id, registry, account))`.
    function endpointMessage(address account) external view returns (bytes32);

    /// @notice The record of `account`; `payee` is zero for an account that never registered and never zero afterwards.
    function provider(address account)
        external
        view
        returns (address payee, bytes2 region, bool leaving, bytes32 endpointId);

    /// @notice Where `account` is paid, or zero when it never registered.
    function payeeOf(address account) external view returns (address);

    /// @notice Whether `account` said that it takes no new jobs.
    function isLeaving(address account) external view returns (bool);

    /// @notice The sum of `tps x outputPrice` over the loadout of `account`: 10^-6 payment-token units per second; 0 without offers.
    function throughputValue(address account) external view returns (uint256);

    /// @notice The router record of `account`; empty when it never registered.
    function router(address account) external view returns (bytes32 endpointId, string memory addresses);
}
