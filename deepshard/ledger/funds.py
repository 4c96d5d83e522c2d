"""Moving money: every change of a balance, a lock or the supply goes through one of these.

Each keeps the sum of balances, locked, unbonding and bonded stake and treasury equal to genesis + minted - burned.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from deepshard.ledger import keys
from deepshard.ledger.faults import InsufficientBalance
from deepshard.ledger.state import Draft

SUPPLY_MAX: Final = 1 << 61
"""Minting stops here, so that no sum of amounts leaves its range."""


def require(draft: Draft, address: bytes, amount: int) -> None:
    """Check that `address` can spend `amount`.

    Raises:
        InsufficientBalance: it can't.
    """
    balance = draft.account(address).balance
    if balance < amount:
        raise InsufficientBalance(address, amount, balance)


def credit(draft: Draft, address: bytes, amount: int) -> None:
    """Add to a balance."""
    account = draft.account(address)
    draft.put_account(address, replace(account, balance=account.balance + amount))


def debit(draft: Draft, address: bytes, amount: int) -> None:
    """Take from a balance that has been checked to suffice."""
    account = draft.account(address)
    draft.put_account(address, replace(account, balance=account.balance - amount))


def lock(draft: Draft, address: bytes, amount: int) -> None:
    """Move from the balance to the stake of proposals and rounds."""
    account = draft.account(address)
    draft.put_account(address, replace(account, balance=account.balance - amount, locked=account.locked + amount))


def unlock(draft: Draft, address: bytes, amount: int) -> None:
    """Give stake of proposals and rounds back to the balance."""
    lock(draft, address, -amount)


def seize(draft: Draft, address: bytes, amount: int) -> None:
    """Take locked stake away; the caller says where it goes."""
    account = draft.account(address)
    draft.put_account(address, replace(account, locked=account.locked - amount))


def to_treasury(draft: Draft, amount: int) -> None:
    """Add to the treasury."""
    supply = draft.supply()
    draft.write(keys.SUPPLY, replace(supply, treasury=supply.treasury + amount))


def mint(draft: Draft, amount: int) -> None:
    """Record that `amount` came into being; the caller credits it."""
    supply = draft.supply()
    draft.write(keys.SUPPLY, replace(supply, minted=supply.minted + amount))


def mintable(draft: Draft, amount: int) -> int:
    """How much of `amount` may still be minted under `SUPPLY_MAX`."""
    supply = draft.supply()
    return max(0, min(amount, SUPPLY_MAX - supply.genesis - supply.minted))


def burn(draft: Draft, amount: int) -> None:
    """Record that `amount`, already taken from a balance, is gone."""
    supply = draft.supply()
    draft.write(keys.SUPPLY, replace(supply, burned=supply.burned + amount))
