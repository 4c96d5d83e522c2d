"""The validator set: voting power, the two thresholds, and who proposes.

Proposer rule. Lay the validators side by side on the line [0, total power), ordered by address, each as long as its
power. Slot `height + round` points at the fraction `slot * STEP mod 2^64` of the line, where STEP / 2^64 is the golden
ratio's fraction, 0.618. Whose stretch is pointed at proposes. The rule needs nothing but the set, the height and the
round, so a node that skipped heights agrees with one that lived through them (a round-robin by priorities, as in
CometBFT, carries state from height to height).

Multiples of the golden ratio are spread more evenly than those of any other number (three-distance theorem, Sós 1958):
in any window of slots a validator's turns differ from its share by a few at most, and one with less than 38 % of
the power never has two slots in a row, so a dead proposer costs one round and not two.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from functools import cached_property
from itertools import accumulate
from typing import Annotated, Final

import msgspec

from deepshard.consensus.types import Validator
from deepshard.encoding import Record, encode
from deepshard.limits import VALIDATORS_MAX
from deepshard.primitives import address_of, tagged_hash

TOTAL_POWER_MAX: Final = 2**62
"""Three times the total power fits 64 bits, which other languages will want for the thresholds."""
PROPOSER_STEP: Final = 0x9E3779B97F4A7C15
"""floor(2^64 * (sqrt(5) - 1) / 2), which is odd and so visits every 64-bit fraction."""


class ValidatorSet(Record, frozen=True, dict=True):
    """Validators ordered by address, each with power, none twice; never empty.

    Building one that breaks these rules raises ValueError, and decoding one `MalformedMessage`.
    """

    validators: Annotated[tuple[Validator, ...], msgspec.Meta(min_length=1, max_length=VALIDATORS_MAX)]

    def __post_init__(self) -> None:
        """Check order, keys and power."""
        if not 1 <= len(self.validators) <= VALIDATORS_MAX:
            raise ValueError(f"{len(self.validators)} validators, expected 1 to {VALIDATORS_MAX}")
        previous = b""
        for validator in self.validators:
            if validator.address <= previous:
                raise ValueError(f"validator {validator.address.hex()} is repeated or out of order")
            if validator.address != address_of(validator.public_key):
                raise ValueError(f"validator {validator.address.hex()} has the key of another address")
            if validator.power < 1:
                raise ValueError(f"validator {validator.address.hex()} has no power")
            previous = validator.address
        if self.total_power > TOTAL_POWER_MAX:
            raise ValueError(f"total power {self.total_power} exceeds {TOTAL_POWER_MAX}")

    @classmethod
    def of(cls, powers: Iterable[tuple[bytes, int]]) -> ValidatorSet:
        """Build a set from (public key, power) pairs in any order, leaving out those without power."""
        members = (Validator(address_of(key), key, power) for key, power in powers if power > 0)
        return cls(tuple(sorted(members, key=lambda validator: validator.address)))

    @cached_property
    def total_power(self) -> int:
        """Sum of all power."""
        return sum(validator.power for validator in self.validators)

    @cached_property
    def by_address(self) -> dict[bytes, Validator]:
        """The validators by address."""
        return {validator.address: validator for validator in self.validators}

    @cached_property
    def power_ends(self) -> list[int]:
        """Where each validator's stretch of the line [0, total power) ends."""
        return list(accumulate(validator.power for validator in self.validators))

    @cached_property
    def _hash(self) -> bytes:
        return tagged_hash("validator set", encode(self))

    def hash(self) -> bytes:
        """Identifier of the set, as headers carry it."""
        return self._hash

    def power_of(self, address: bytes) -> int:
        """Power of a validator; 0 for anyone else."""
        validator = self.by_address.get(address)
        return 0 if validator is None else validator.power

    def is_quorum(self, power: int) -> bool:
        """Whether `power` is more than two thirds: 2f + 1 in arXiv 1807.04938."""
        return 3 * power > 2 * self.total_power

    def has_honest(self, power: int) -> bool:
        """Whether `power` is more than one third, so that some of it is honest: f + 1 in arXiv 1807.04938."""
        return 3 * power > self.total_power


def proposer(validators: ValidatorSet, height: int, round_: int) -> Validator:
    """Who proposes in this round of this height, by the rule above."""
    fraction = (height + round_) * PROPOSER_STEP % 2**64
    point = fraction * validators.total_power >> 64
    return validators.validators[bisect_right(validators.power_ends, point)]
