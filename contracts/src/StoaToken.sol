// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";

/// @title STOA, the stake token
/// @notice Fixed supply, 18 decimals. There is no mint function and no owner: after construction the supply can only fall, by burning.
/// Votes are counted by block time, so that voting periods mean the same on every chain.
contract StoaToken is ERC20, ERC20Burnable, ERC20Permit, ERC20Votes {
    /// @notice The whole supply at construction: 1,000,000,000 tokens.
    uint256 public constant SUPPLY = 1_000_000_000e18;

    /// @param holder Receives the whole supply.
    constructor(address holder) ERC20("Stoa", "STOA") ERC20Permit("Stoa") {
        _mint(holder, SUPPLY);
    }

    /// @notice The clock of vote checkpoints: block time in seconds.
    function clock() public view override returns (uint48) {
        return uint48(block.timestamp);
    }

    /// @notice Names that clock for wallets, as ERC-6372 asks.
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    /// @notice The next permit or delegation nonce of `owner`.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
