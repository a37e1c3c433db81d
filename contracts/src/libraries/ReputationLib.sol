// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Errors of the reputation
library ReputationErrors {
    /// @notice `caller` does not hold the role that this call needs.
    error NotAllowed(address caller);
    /// @notice The rates are not shares, or the lower one is zero or above the other.
    error BadRates(uint16 mostBps, uint16 leastBps);
}

/// @title Events of the reputation
library ReputationEvents {
    /// @notice A verified outcome of `provider`.
    event Marked(address indexed provider, uint32 reputation, uint32 verified);
    /// @notice Only `writer` may write from now on.
    event WriterSet(address writer);
    /// @notice `admin` holds the admin role from now on.
    event AdminSet(address admin);
}
