// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Ticket} from "../src/libraries/TicketLib.sol";
import {DeliveryMarket} from "./utils/DeliveryMarket.sol";

/// @notice Gas of whole transactions of claims of non-delivery; isolated, kept in snapshots/gas.json.
/// forge-config: default.isolate = true
/// forge-config: ci.isolate = true
contract DeliveryGasTest is DeliveryMarket {
    function test_claims_and_what_they_come_to() public {
        (Ticket memory first,) = claimed(seller, 1);
        vm.snapshotGasLastCall("gas", "claim of non-delivery");
        answer(first, false);
        vm.snapshotGasLastCall("gas", "answer with the provider's receipt");
        (Ticket memory second,) = claimed(seller, 2);
        answer(second, true);
        vm.snapshotGasLastCall("gas", "answer that convicts the router");
        (, bytes32 third) = claimed(account, 3);
        pass(DAY);
        claims.punish(third);
        vm.snapshotGasLastCall("gas", "punish non-delivery");
    }
}
