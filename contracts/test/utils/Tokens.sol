// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice A token that keeps one unit of every transfer.
contract FeeToken is ERC20 {
    constructor() ERC20("Fee", "FEE") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function burn(uint256 amount) external {
        _burn(msg.sender, amount);
    }

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0) && to != address(0)) super._update(to, address(0), 1);
    }
}

/// @notice A token whose issuer can refuse a receiver, as those of some dollar tokens can.
contract BlockingToken is ERC20 {
    mapping(address => bool) public refused;

    constructor() ERC20("Blocking", "BLK") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function refuse(address who, bool yes) external {
        refused[who] = yes;
    }

    function _update(address from, address to, uint256 amount) internal override {
        require(!refused[to], "refused");
        super._update(from, to, amount);
    }
}

/// @notice A token that calls a hook of the receiver's choice in the middle of a transfer.
contract HookToken is ERC20 {
    address public target;
    bytes public call;

    constructor() ERC20("Hook", "HOOK") {}

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function arm(address newTarget, bytes calldata newCall) external {
        (target, call) = (newTarget, newCall);
    }

    function _update(address from, address to, uint256 amount) internal override {
        if (target != address(0)) {
            address to_ = target;
            target = address(0);
            (bool done, bytes memory reason) = to_.call(call);
            if (!done) {
                assembly {
                    revert(add(reason, 32), mload(reason))
                }
            }
        }
        super._update(from, to, amount);
    }
}
