"""What validators offer to store, and what each weighs in placement and in the holders' part of licence fees."""

from __future__ import annotations

from deepshard.ledger import keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import AlreadyDone, NotAValidator
from deepshard.ledger.records import ActiveSet, ActiveValidator, StorageOffer, StorageTerms
from deepshard.ledger.state import View
from deepshard.ledger.transactions import OfferStorage
from deepshard.placement import Candidate


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
    before = None if known is None else StorageTerms(known.capacity, known.operator, known.network)
    offer = StorageOffer(action.capacity, action.operator, action.network, epoch, before)
    call.draft.write(keys.storage_key(call.sender), offer)
    # RECEIPT
    facts: dict[str, int | str] = {"capacity": action.capacity, "operator": action.operator, "network": action.network}
    call.receipts.add("storage-offered", call.sender, call.id, 0, "", **facts)


def storage_weight(view: View, validator: ActiveValidator) -> int:
    """Its stake, or what it wants to hold at most in bytes where that is less: one base unit backs one byte."""
    return _candidate(validator, view.storage_offer(validator.address)).weight


def candidates_of(view: View) -> tuple[Candidate, ...]:
    """The active validators, with what they weigh and what they say that they share with others."""
    return tuple(_candidate(each, view.storage_offer(each.address)) for each in view.active().validators)


def settled_candidates(view: View, members: ActiveSet) -> tuple[Candidate, ...]:
    """A set of validators as candidates by what they offered before the current epoch began."""
    epoch = view.chain().epoch
    found = []
    for each in members.validators:
        offer = view.storage_offer(each.address)
        found.append(_candidate(each, offer if offer is None or offer.epoch < epoch else offer.before))
    return tuple(found)


def _candidate(validator: ActiveValidator, terms: StorageOffer | StorageTerms | None) -> Candidate:
    if terms is None:
        return Candidate(validator.address, validator.stake)
    return Candidate(validator.address, min(validator.stake, terms.capacity), terms.operator, terms.network)
