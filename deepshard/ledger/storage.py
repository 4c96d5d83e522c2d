"""What validators offer to store, and what each weighs in placement and in the holders' part of licence fees."""

from __future__ import annotations

from deepshard.ledger import keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import AlreadyDone, NotAValidator
from deepshard.ledger.records import ActiveValidator, StorageOffer
from deepshard.ledger.state import View
from deepshard.ledger.transactions import OfferStorage


def apply_offer_storage(call: Call, action: OfferStorage) -> None:
    """Set or replace the sender's offer, once an epoch: each change may move data between others."""
    # CHECK
    bond = call.draft.validator(call.sender)
    if bond is None or bond.stake == 0:
        raise NotAValidator(call.sender)
    epoch = call.draft.chain().epoch
    known = call.draft.storage_offer(call.sender)
    if known is not None and known.epoch >= epoch:
        raise AlreadyDone(f"offered storage in epoch {epoch}", call.sender)
    call.require(0)
    # CHARGE
    call.charge_fee()
    # APPLY
    offer = StorageOffer(action.capacity, action.operator, action.network, epoch)
    call.draft.write(keys.storage_key(call.sender), offer)
    # RECEIPT
    facts: dict[str, int | str] = {"capacity": action.capacity, "operator": action.operator, "network": action.network}
    call.receipts.add("storage-offered", call.sender, call.id, 0, "", **facts)


def storage_weight(view: View, validator: ActiveValidator) -> int:
    """Its stake, or what it wants to hold at most in bytes where that is less: one base unit backs one byte."""
    offer = view.storage_offer(validator.address)
    return validator.stake if offer is None else min(validator.stake, offer.capacity)
