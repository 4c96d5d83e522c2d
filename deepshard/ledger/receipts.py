"""Receipts: what happened to whom in a block, and the inputs of the rule that made it so.

| kind | account | subject | amount | facts |
|---|---|---|---|---|
| `fee` | sender | transaction | minus the fee | |
| `transfer` | sender, then recipient | transaction | minus and plus the amount | `peer` |
| `bond` | validator | transaction | 0 | `bonded`, `stake` |
| `unbond` | validator | transaction | 0 | `unbonding`, `release_height`, `stake` |
| `storage-offered` | validator | transaction | 0 | `capacity`, `operator`, `network` |
| `unbonded` | validator | zero | 0 | `released` |
| `epoch` | zero | zero | 0 | `epoch`, `validators`, `stake` |
| `propose` | informant | proposal | 0 | `segments`, `bytes`, `stake` |
| `proposal-committee` | informant | proposal | 0 | `seats`, `stake` |
| `proposal-revealing` | informant | proposal | 0 | `committed` |
| `proposal-accepted`, `-rejected`, `-harmful`, `-contested` | informant | proposal | minus the slash | tally |
| `round-opened` | zero | round | 0 | `round`, `segments`, `proposals` |
| `join` | trainer | round | 0 | `round`, `stake` |
| `round-training`, `-revealing`, `-scoring` | zero | round | 0 | `round`, `trainers`, `deadline` |
| `round-accepted` | medoid | round | 0 | `round`, `version`, `minted`, `slashed`, `gain` |
| `round-void` | zero | round | 0 | `round`, `slashed` |
| `trainer-reward` | trainer | round | the reward | measurements, `pool`, `stake`, `accepted_stake` |
| `trainer-slash` | trainer | round | minus the stake | measurements and their limits |
| `trainer-returned` | trainer | round | 0 | measurements |
| `informant-reward` | informant | round | the reward | `gain`, `total_gain`, `pool`, `cap` |
| `licence` | buyer | transaction | minus the price | `version`, `last_version`, `holders`, `treasury`, `burned` |
| `licence-share` | validator | transaction | its share | `weight`, `active_weight` |
| `evidence-slash` | accused | evidence | minus the slash | offence, `reporter`, what of it was bonded, `jailed_until` |
| `audit-opened` | zero | audit | 0 | `epoch`, `version`, `deadline`, `shards` |
| `audit-passed` | holder | audit | 0 | `epoch`, `version`, `asked` |
| `audit-failed` | holder | audit | minus the slash | also `failed`, `shards`, what of it was bonded, `slash_bp` |
| `audit-closed` | zero | audit | 0 | `epoch`, `version`, `shards`, `shown` |
| `unjail` | validator | transaction | 0 | `stake` |

The subject of a round is `round_subject(number)`, that of an audit `audit_subject(epoch)`.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepshard.encoding import encode
from deepshard.ledger.records import Receipt
from deepshard.merkle import merkle_root
from deepshard.primitives import tagged_hash

NOBODY = bytes(20)
"""Account of a receipt that concerns nobody in particular."""


def round_subject(number: int) -> bytes:
    """Subject of the receipts of a training round."""
    return tagged_hash("round", number.to_bytes(8, "big"))


def audit_subject(epoch: int) -> bytes:
    """Subject of the receipts of an epoch's audit."""
    return tagged_hash("audit", epoch.to_bytes(8, "big"))


def receipts_root(receipts: Sequence[Receipt]) -> bytes:
    """Merkle root over a block's receipts, the header's `receipts_root`."""
    return merkle_root([encode(receipt) for receipt in receipts])


class Receipts:
    """The receipts of the block being executed."""

    def __init__(self, height: int) -> None:
        """Begin the list of the block at `height`."""
        self.height = height
        self._written: list[Receipt] = []

    def add(self, kind: str, account: bytes, subject: bytes, amount: int, reason: str, **facts: int | str) -> None:
        """Append a receipt; facts keep the order they are given in."""
        self._written.append(Receipt(self.height, kind, account, subject, amount, reason, tuple(facts.items())))

    def mark(self) -> int:
        """A point to roll back to."""
        return len(self._written)

    def rollback(self, mark: int) -> None:
        """Drop every receipt since `mark`."""
        del self._written[mark:]

    def all(self) -> tuple[Receipt, ...]:
        """The receipts so far."""
        return tuple(self._written)
