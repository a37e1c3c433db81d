// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ClaimState} from "../src/interfaces/IDeliveryClaims.sol";
import {Ticket} from "../src/libraries/TicketLib.sol";
import {DeliveryMarket} from "./utils/DeliveryMarket.sol";

/// @notice Claims of non-delivery over arbitrary numbers.
contract DeliveryFuzzTest is DeliveryMarket {
    function testFuzz_two_deadlines_are_one_fault_when_less_than_a_day_lies_between(uint64 first, uint64 apart, bool turned)
        public
    {
        apart = uint64(bound(apart, 0, 2 * DAY * 1000));
        Ticket memory a = ticket(1);
        a.deadline += uint64(bound(first, 0, DAY * 1000));
        Ticket memory b = ticket(2);
        b.deadline = a.deadline + apart;
        vm.warp(a.deadline / 1000 + 1);
        bytes32 one = claim(account, a);
        vm.warp(b.deadline / 1000 + 1);
        bytes32 two = claim(account, b);
        vm.warp(block.timestamp + DAY);
        claims.punish(turned ? two : one);
        claims.punish(turned ? one : two);
        uint256 faults = apart < DAY * 1000 ? 1 : 2;
        vm.assertEq(reputation.standingOf(provider).verified, faults, "faults");
        vm.assertEq(stoa.balanceOf(address(claims)), 0, "deposits");
    }

    function testFuzz_one_changed_byte_of_ticket_or_signature_is_refused(uint256 at, uint8 change, uint8 part) public {
        Ticket memory t = ticket(1);
        bytes[3] memory parts = [abi.encode(t), sign(ROUTER_KEY, idOf(t)), accepted(t)];
        bytes memory changed = parts[part % 3];
        change = uint8(bound(change, 1, 255));
        at %= changed.length;
        changed[at] = bytes1(uint8(changed[at]) ^ change);
        pass(121);
        vm.prank(account);
        try claims.claim(parts[0], parts[1], t.issuedAt, parts[2]) {
            revert("a changed byte was taken");
        } catch {}
        vm.assertEq(uint256(claims.claimOf(idOf(t)).state), uint256(ClaimState.None), "state");
    }
}
