// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Test dollar: the payment token of devnets
/// @notice Worth nothing: anybody may mint. It has the six decimals and the permit of the dollar tokens that public networks use.
contract TestDollar is ERC20, ERC20Permit {
    constructor() ERC20("Test Dollar (devnet only)", "tUSD") ERC20Permit("Test Dollar (devnet only)") {}

    /// @notice Amounts are counted in 10^-6 of a dollar.
    function decimals() public pure override returns (uint8) {
        return 6;
    }

    /// @notice Anyone may call: gives `amount` units to `to`.
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }
}
