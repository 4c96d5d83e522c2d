"""The canonical encoding of every record that peers send: all messages of the catalogue, and what they carry."""

from __future__ import annotations

from typing import Final

from harness import Harness
from samples import RECORDS, message_samples, record_samples

from deepshard.encoding import Record, decode, encode
from deepshard.limits import BODY_BYTES_MAX
from deepshard.wire.frames import prepare
from deepshard.wire.messages import CATALOGUE, Message

TYPES: Final[tuple[type[Record], ...]] = (*CATALOGUE.values(), *RECORDS)


def check(data: bytes) -> None:
    if not data:
        return
    value = decode(data[1:], TYPES[data[0] % len(TYPES)], bytes_max=BODY_BYTES_MAX)
    assert encode(value) == data[1:]
    if isinstance(value, Message):
        assert prepare(value).body_bytes == len(data) - 1


def seeds() -> dict[str, bytes]:
    samples = [*message_samples(), *record_samples()]
    return {type(one).__name__: bytes((TYPES.index(type(one)),)) + encode(one) for one in samples}


HARNESS: Final = Harness(check, seeds, prefix_bytes=1, shape="record")
