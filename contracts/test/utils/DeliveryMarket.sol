// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Receipt, ReceiptLib} from "../../src/libraries/ReceiptLib.sol";
import {Ticket, TicketLib} from "../../src/libraries/TicketLib.sol";
import {AuditMarket} from "./AuditMarket.sol";

/// @notice A router with a key, and tickets that the provider took.
abstract contract DeliveryMarket is AuditMarket {
    uint256 internal constant ROUTER_KEY = 0xb0b;
    uint8 internal constant PROVIDER = 1;
    uint8 internal constant ROUTER = 2;

    address internal seller;

    function setUp() public virtual override {
        super.setUp();
        seller = vm.addr(ROUTER_KEY);
        bond(seller, ROUTER, STAKE);
        fund(seller);
        fund(account);
    }

    function fund(address who) internal {
        vm.prank(holder);
        stoa.transfer(who, 1000 * DEPOSIT);
        vm.prank(who);
        stoa.approve(address(claims), type(uint256).max);
    }

    /// @notice Ticket `job`, due two minutes from now.
    function ticket(uint256 job) internal view returns (Ticket memory t) {
        t.jobId = keccak256(abi.encode("job", job));
        (t.account, t.router, t.provider) = (account, seller, provider);
        (t.inputPrice, t.outputPrice) = (1e6, 2e6);
        (t.inputUnitsMax, t.outputUnitsMax, t.reserve) = (30, 20, 70);
        (t.feeVersion, t.tier) = (1, 2);
        t.issuedAt = uint64(block.timestamp) * 1000;
        t.deadline = t.issuedAt + 120_000;
    }

    function domain() internal view returns (bytes32) {
        return TicketLib.domain(block.chainid, address(vault));
    }

    function idOf(Ticket memory t) internal view returns (bytes32) {
        return TicketLib.digest(domain(), abi.encode(t));
    }

    function sign(uint256 key, bytes32 digest) internal pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function acceptance(Ticket memory t) internal view returns (bytes32) {
        return TicketLib.acceptance(domain(), idOf(t), t.issuedAt);
    }

    function accepted(Ticket memory t) internal view returns (bytes memory) {
        return sign(PROVIDER_KEY, acceptance(t));
    }

    function claim(address who, Ticket memory t) internal returns (bytes32 id) {
        (bytes memory byRouter, bytes memory byProvider) = (sign(ROUTER_KEY, idOf(t)), accepted(t));
        vm.prank(who);
        id = claims.claim(abi.encode(t), byRouter, t.issuedAt, byProvider);
    }

    /// @notice A ticket whose deadline is over, claimed by `who`.
    function claimed(address who, uint256 job) internal returns (Ticket memory t, bytes32 id) {
        t = ticket(job);
        pass(121);
        id = claim(who, t);
    }

    function receiptFor(Ticket memory t) internal view returns (Receipt memory r) {
        r.version = 1;
        (r.chainId, r.vault) = (block.chainid, address(vault));
        (r.jobId, r.account, r.router, r.provider) = (t.jobId, t.account, t.router, t.provider);
        (r.inputPrice, r.outputPrice, r.tier) = (t.inputPrice, t.outputPrice, t.tier);
        (r.inputUnits, r.outputUnits, r.charge) = (3, 2, 7);
        r.ticketHash = idOf(t);
    }

    function answer(Ticket memory t, bool countersigned) internal {
        answerBy(PROVIDER_KEY, t, countersigned);
    }

    function answerBy(uint256 key, Ticket memory t, bool countersigned) internal {
        Receipt memory r = receiptFor(t);
        bytes32 digest = ReceiptLib.digest(r);
        bytes memory byRouter = countersigned ? sign(ROUTER_KEY, digest) : bytes("");
        claims.answer(idOf(t), abi.encode(r), sign(key, digest), byRouter);
    }
}
