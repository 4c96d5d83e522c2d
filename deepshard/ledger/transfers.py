"""Transfers, and the bonds of validators."""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.ledger import funds, keys
from deepshard.ledger.accountability import keep_epoch
from deepshard.ledger.call import Call
from deepshard.ledger.faults import LimitReached, NotAValidator, OnionTipChanged, StakeTooLow
from deepshard.ledger.receipts import NOBODY, Receipts
from deepshard.ledger.records import ActiveSet, ActiveValidator, Unbonding, ValidatorRecord
from deepshard.ledger.state import Draft
from deepshard.ledger.transactions import Bond, Transfer, Unbond
from deepshard.limits import UNBONDING_ENTRIES_MAX, VALIDATORS_MAX
from deepshard.primitives import ZERO_DIGEST, format_address


def apply_transfer(call: Call, action: Transfer) -> None:
    """Move balance to another account."""
    # CHECK
    if action.amount == 0:
        raise StakeTooLow("transfer", 0, 1)
    call.require(action.amount)
    # CHARGE
    call.charge_fee()
    # APPLY
    funds.debit(call.draft, call.sender, action.amount)
    funds.credit(call.draft, action.to, action.amount)
    # RECEIPT
    call.receipts.add("transfer", call.sender, call.id, -action.amount, "", peer=format_address(action.to))
    call.receipts.add("transfer", action.to, call.id, action.amount, "", peer=format_address(call.sender))


def apply_bond(call: Call, action: Bond) -> None:
    """Bond stake, as a new validator or on top of a bond.

    The hash onion is fixed with the first bond: a validator that could replace it would choose what it adds to the
    beacon. A new onion needs a full withdrawal, which takes effect at an epoch boundary.
    """
    # CHECK
    known = call.draft.validator(call.sender)
    stake = action.amount + (known.stake if known else 0)
    minimum = max(1, call.params.validator_stake_min)
    if action.amount == 0 or stake < minimum:
        raise StakeTooLow("bond", stake, minimum)
    if known is not None and known.onion_tip != action.onion_tip:
        raise OnionTipChanged(call.sender)
    call.require(action.amount)
    # CHARGE
    call.charge_fee()
    # APPLY
    funds.debit(call.draft, call.sender, action.amount)
    record = ValidatorRecord(call.public_key, stake, action.onion_tip)
    call.draft.write(keys.validator_key(call.sender), record)
    # RECEIPT
    call.receipts.add("bond", call.sender, call.id, 0, "", bonded=action.amount, stake=stake)


def apply_unbond(call: Call, action: Unbond) -> None:
    """Begin to withdraw stake; what stays must be nothing or the minimum."""
    # CHECK
    known = call.draft.validator(call.sender)
    if known is None or known.stake == 0:
        raise NotAValidator(call.sender)
    rest = known.stake - action.amount
    minimum = max(1, call.params.validator_stake_min)
    if action.amount == 0 or (rest != 0 and rest < minimum):
        raise StakeTooLow("remaining bond", max(0, rest), minimum)
    account = call.draft.account(call.sender)
    if len(account.unbonding) >= UNBONDING_ENTRIES_MAX:
        raise LimitReached("withdrawals of one account at a time", UNBONDING_ENTRIES_MAX)
    call.require(0)
    # CHARGE
    call.charge_fee()
    # APPLY
    release_height = call.height + call.params.unbonding_blocks
    account = call.draft.account(call.sender)
    entries = (*account.unbonding, Unbonding(action.amount, release_height))
    call.draft.put_account(call.sender, replace(account, unbonding=entries))
    call.draft.write(keys.validator_key(call.sender), replace(known, stake=rest))
    call.draft.write(keys.release_key(release_height, call.sender), ())
    # RECEIPT
    facts = {"unbonding": action.amount, "release_height": release_height, "stake": rest}
    call.receipts.add("unbond", call.sender, call.id, 0, "", **facts)


def release_unbonded(draft: Draft, receipts: Receipts, height: int) -> None:
    """Pay out the withdrawals that are due at the end of the block at `height`."""
    for address, _ in list(draft.items(keys.releases_prefix(height), tuple)):
        account = draft.account(address)
        due = sum(entry.amount for entry in account.unbonding if entry.release_height <= height)
        waiting = tuple(entry for entry in account.unbonding if entry.release_height > height)
        draft.put_account(address, replace(account, balance=account.balance + due, unbonding=waiting))
        draft.write(keys.release_key(height, address), None)
        receipts.add("unbonded", address, ZERO_DIGEST, 0, "", released=due)


def change_validators(draft: Draft, receipts: Receipts, height: int) -> bool:
    """At the last block of an epoch, take the bonds as the validator set of the next; whether the set changed.

    The `VALIDATORS_MAX` largest bonds count, ties by address, but for those in jail. A set that would be empty stays as
    it is: a network without validators could never decide the block that brings them back.
    """
    if (height + 1) % draft.params().epoch_blocks != 0:
        return False
    changed = _choose_validators(draft, receipts, height)
    keep_epoch(draft, height + 1)
    return changed


def _choose_validators(draft: Draft, receipts: Receipts, height: int) -> bool:
    params = draft.params()
    minimum = max(1, params.validator_stake_min)
    bonds = [
        (address, record)
        for address, record in draft.validators()
        if record.stake >= minimum and not draft.is_jailed(address)
    ]
    largest = sorted(bonds, key=lambda bond: (-bond[1].stake, bond[0]))[:VALIDATORS_MAX]
    chosen = sorted(largest, key=lambda bond: bond[0])
    old = draft.active()
    new = ActiveSet(tuple(ActiveValidator(address, record.public_key, record.stake) for address, record in chosen))
    if not new.validators or new == old:
        return False
    draft.write(keys.ACTIVE, new)
    for address, record in draft.validators():
        if record.stake == 0:
            draft.write(keys.validator_key(address), None)
            if draft.storage_offer(address) is not None:
                draft.write(keys.storage_key(address), None)
    total = sum(entry.stake for entry in new.validators)
    epoch = (height + 1) // params.epoch_blocks
    receipts.add("epoch", NOBODY, ZERO_DIGEST, 0, "", epoch=epoch, validators=len(new.validators), stake=total)
    return True
