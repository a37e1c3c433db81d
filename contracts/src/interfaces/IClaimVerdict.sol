// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title A verdict that carries out what claims of non-delivery come to
/// @notice The verdict stays the only one that slashes and writes reputation; it believes the one contract of claims that it was built with.
interface IClaimVerdict {
    /// @notice Only the contract of claims: slashes `provider` for not delivering on `ticket`, and marks its reputation. Half of the
    /// developers' share goes to `account`, nothing to a challenger.
    /// @param since The deadline, Unix seconds: what fell due before the last conviction is no repeat of it.
    function convictNonDelivery(address provider, bytes32 ticket, uint64 since, address account) external;

    /// @notice Only the contract of claims: slashes `router` for a claim on `ticket` though it had the delivery. `provider` is paid.
    /// @param since When it made the claim, Unix seconds.
    function convictFalseClaim(address router, bytes32 ticket, uint64 since, address provider) external;

    /// @notice The contract of claims; zero where there is none.
    function CLAIMS() external view returns (address);
}
