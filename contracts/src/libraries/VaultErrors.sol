// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Errors of the vault. A call that fails changes nothing.
library VaultErrors {
    /// @notice The amount is zero.
    error ZeroAmount();
    /// @notice An address that must be set is zero.
    error ZeroAddress();
    /// @notice A window, notice or settle delay of `delay` seconds, more than `max`.
    error DelayTooLong(uint64 delay, uint64 max);
    /// @notice `caller` does not hold the role that this call needs.
    error NotAllowed(address caller);
    /// @notice The token took a fee or gave another amount than asked.
    error InexactTransfer(uint256 expected, uint256 received);
    /// @notice The vault would hold `balance`, more than `max`.
    error VaultFull(uint256 balance, uint256 max);
    /// @notice `developer` has `free` unbound, less than `wanted`.
    error InsufficientFree(address developer, uint128 free, uint128 wanted);
    /// @notice Generation `generation` of this allotment is not released yet.
    error AllotmentLive(address developer, address router, uint32 generation);
    /// @notice There is no live allotment of `developer` to `router`.
    error NoAllotment(address developer, address router);
    /// @notice The allotment expired at `expiry`.
    error AllotmentExpired(uint64 expiry);
    /// @notice `expiry` is not within `earliest` to `latest`.
    error BadExpiry(uint64 expiry, uint64 earliest, uint64 latest);
    /// @notice The rest of this allotment returns at `releasableAt`.
    error NotReleasable(uint64 releasableAt);
    /// @notice A batch holds `count` receipts; allowed are 1 to `max`.
    error BadJobCount(uint32 count, uint32 max);
    /// @notice A payout root of `router` waits until `promotableAt`.
    error PayRootPending(address router, uint64 promotableAt);
    /// @notice No payout root of `router` waits.
    error NothingPending(address router);
    /// @notice The lifetime gross fell from `claimable` to `gross`.
    error GrossFell(uint128 gross, uint128 claimable);
    /// @notice The lifetime gross exceeds `covered`, which is allotted to the router and not released.
    error Insolvent(uint128 gross, uint128 covered);
    /// @notice The two roots do not hash to `router`'s claimable payout root.
    error NotClaimable(address router, bytes32 payRoot);
    /// @notice The proof does not lead from `leaf` to the root.
    error BadProof(bytes32 leaf);
    /// @notice The entry names a generation that is not the live one, `live` (0 when none lives).
    error WrongGeneration(address developer, uint32 generation, uint32 live);
    /// @notice The lifetime debit of `developer` fell from `booked` to `lifetimeDebit`.
    error DebitFell(address developer, uint128 lifetimeDebit, uint128 booked);
    /// @notice The lifetime debit of `developer` exceeds its cap.
    error CapExceeded(address developer, uint128 lifetimeDebit, uint128 cap);
    /// @notice `provider` has never registered.
    error UnknownProvider(address provider);
    /// @notice The claim would pay `amount`, less than `min`: too little is left in the leaf, or its debits are not synced yet.
    error BelowMinimum(uint128 amount, uint128 min);
    /// @notice There is no such fee version.
    error UnknownFeeVersion(uint16 version);
    /// @notice A share is above its bound.
    error FeeTooHigh(uint256 routerBps, uint256 protocolBps);
    /// @notice Nothing is owed to `who`.
    error NothingOwed(address who);
}
