// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {PaymentVault} from "../../src/PaymentVault.sol";
import {VaultParams} from "../../src/interfaces/IPaymentVault.sol";
import {IProviderRegistry} from "../../src/interfaces/IProviderRegistry.sol";
import {PostRecordLib, PostRecord} from "../../src/libraries/PostRecordLib.sol";
import {ProtocolOwed} from "../../src/libraries/ProtocolOwedLib.sol";

/// @notice Everything that the vault remembers about one developer, one router and one provider, and what the pools are owed.
struct Book {
    uint64 free;
    uint88 cap;
    uint88 debited;
    uint40 expiry;
    uint32 generation;
    bool live;
    uint88 capTotal;
    uint88 releasedTotal;
    uint88 debitedTotal;
    uint88 claimedGross;
    uint64 feeOwed;
    uint40 posts;
    uint40 pendingAt;
    uint88 pendingGross;
    uint88 claimableGross;
    bytes32 pendingRoot;
    bytes32 claimableRoot;
    uint88 claimed;
    uint64 providerOwed;
    uint64 treasuryOwed;
    uint64 validatorsOwed;
    uint64 buybackOwed;
}

/// @notice The vault with its private memory open: a proof starts from any state and not only from those that a short run reaches.
contract OpenVault is PaymentVault {
    bool private shut;

    constructor(IERC20 token, IProviderRegistry registry, VaultParams memory p, address firstAdmin)
        PaymentVault(token, registry, p, firstAdmin)
    {}

    function put(address developer, address router, address provider, Book calldata b) external {
        require(!shut, "the state is put once, before the call that is proved");
        shut = true;
        free[developer] = b.free;
        _allotments[developer][router] = Allotment(b.cap, b.debited, b.expiry, b.generation, b.live);
        RouterState storage r = _routers[router];
        (r.capTotal, r.releasedTotal) = (b.capTotal, b.releasedTotal);
        r.claims = ClaimRecord(b.debitedTotal, b.claimedGross, b.feeOwed);
        (r.pendingRoot, r.claimableRoot) = (b.pendingRoot, b.claimableRoot);
        r.posted = PostRecord.wrap(
            uint256(b.posts) | uint256(b.pendingAt) << 40 | uint256(b.pendingGross) << 80 | uint256(b.claimableGross) << 168
        );
        _claimed[_leafKey(router, provider, 1)] = b.claimed;
        _owed[provider] = b.providerOwed;
        _protocol = ProtocolOwed.wrap(0).plus(b.treasuryOwed, b.validatorsOwed, b.buybackOwed);
    }

    function postsOf(address router) external view returns (uint64) {
        return _routers[router].posted.posts();
    }

    /// @notice As stored: `pendingOf` hides a gross without a time.
    function pendingWords(address router) external view returns (uint64, uint128) {
        PostRecord posted = _routers[router].posted;
        return (posted.pendingAt(), posted.pendingGross());
    }

    function liveOf(address developer, address router) external view returns (Allotment memory) {
        return _allotments[developer][router];
    }
}
