"""What every transaction rule is given, and the fee that most of them charge.

Every rule has four parts in one order: CHECK (raise, change nothing), CHARGE (the fee), APPLY (write), RECEIPT.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.ledger import funds
from deepshard.ledger.params import Params
from deepshard.ledger.receipts import Receipts
from deepshard.ledger.state import Draft


@dataclass(frozen=True, slots=True)
class Call:
    """One transaction being applied: who sent it, at which height, on what draft."""

    draft: Draft
    receipts: Receipts
    params: Params
    chain_id: str
    height: int
    sender: bytes
    """Address of the sender."""
    public_key: bytes
    id: bytes
    """`transaction_id` of the transaction."""

    def require(self, amount: int) -> None:
        """CHECK that the sender can pay the fee and `amount`.

        Raises:
            InsufficientBalance: it can't.
        """
        funds.require(self.draft, self.sender, self.params.transaction_fee + amount)

    def charge_fee(self) -> None:
        """CHARGE the fee, which goes to the treasury."""
        fee = self.params.transaction_fee
        funds.debit(self.draft, self.sender, fee)
        funds.to_treasury(self.draft, fee)
        self.receipts.add("fee", self.sender, self.id, -fee, "")
