"""Units of gossip and their ids: what is passed on, counted and asked for (chapter 7.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum, auto
from typing import Protocol, TypeVar

from deepshard.encoding import encode
from deepshard.primitives import tagged_hash

T = TypeVar("T")
ID_BYTES = 16


class Topic(IntEnum):
    """What a mesh is for."""

    CONSENSUS = 0
    TRANSACTIONS = 1


class Verdict(Enum):
    """What the host found of a unit; see 7.2."""

    VALID = auto()
    IGNORE = auto()
    LATER = auto()
    REJECT = auto()


@dataclass(frozen=True, slots=True)
class Unit:
    """An entry of a batch, or a whole message. `content` is the host's; the mesh never looks at it."""

    id: bytes
    topic: Topic
    kind: int
    size: int
    batched: bool
    """Whether units of this kind share messages, and so may wait a moment for each other."""
    content: object = field(compare=False)


class Rng(Protocol):
    """Randomness as an argument; `random.Random` is one."""

    def random(self) -> float:
        """From 0 to below 1."""
        ...

    def sample(self, population: Sequence[T], k: int) -> list[T]:
        """Distinct elements at random, in random order."""
        ...


def message_id(kind: int, body: bytes) -> bytes:
    """Id of a message by its kind and canonical body; 16 bytes."""
    return tagged_hash("gossip id", kind.to_bytes(2, "little"), body)[:ID_BYTES]


def entry_unit(topic: Topic, kind: int, entry: bytes) -> Unit:
    """One entry of a batch: its id is that of a message which holds it alone."""
    return Unit(message_id(kind, encode(((entry,),))), topic, kind, len(entry), batched=True, content=entry)


def whole_unit(topic: Topic, kind: int, message: object) -> Unit:
    """A message that is one unit."""
    body = encode(message)
    return Unit(message_id(kind, body), topic, kind, len(body), batched=False, content=message)
