"""`packets.json`: sealing, numbers, rekeying, and the fields of control packets (chapters 5.1, 5.6 to 5.8)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate.dialogue import goodbye, packet, ping
from deepshard.primitives import expand

_SEAL, _NUMBERS, _TAMPERED, _FIELDS, _SIZE, _REKEY = (
    ("5.1/2", "1.7/1"),
    ("5.1/3",),
    ("5.1/4",),
    ("5.1/5",),
    ("5.1/1",),
    ("5.6/1", "5.6/3", "5.1/3"),
)
_KEY: Final = digest_of("packet key")
_REKEY_PLAIN: Final = b"\x06"
_MAX: Final = 64 * 1024 + 256
_BAD: Final = "MalformedMessage"


def make() -> Json:
    """The file."""
    return document(
        "packets",
        "Packets (chapters 5.1 and 5.6 to 5.8): sealing, numbers, rekeying, sizes, control packets.",
        [*_sequences(), *_tampered(), *_sizes(), *_controls(), *_bad_controls()],
    )


def _sealed(*plains: bytes) -> tuple[list[bytes], list[bytes]]:
    """Packets, and the key that each was sealed under."""
    key, packets, keys = _KEY, [], []
    for number, plain in enumerate(plains):
        packets.append(packet(plain, key, number))
        keys.append(key)
        if plain == _REKEY_PLAIN:
            key = expand(key, "link rekey", 32)
    return packets, keys


def _sequences() -> Iterator[Json]:
    data = b"\x02" + (7).to_bytes(4, "little")
    runs: list[tuple[str, tuple[str, ...], list[bytes]]] = [
        ("one packet", _SEAL, [ping(5)]),
        ("three packets", (*_SEAL, *_NUMBERS), [ping(5), data + b"payload", goodbye(0, "bye")]),
        ("equal packets", (*_SEAL, *_NUMBERS), [ping(5)] * 3),
        ("the smallest and a large one", _SEAL, [_REKEY_PLAIN, data + bytes(4096)]),
        ("a new key in between", _REKEY, [ping(1), _REKEY_PLAIN, ping(2), ping(3)]),
        ("three new keys one after the other", _REKEY, [_REKEY_PLAIN, _REKEY_PLAIN, _REKEY_PLAIN, ping(1)]),
    ]
    for name, clauses, plains in runs:
        packets, keys = _sealed(*plains)
        fields = {"key": _KEY, "plains": plains, "keys": keys, "packets": packets}
        yield accept(f"sealed: {name}", clauses, operation="seal", **fields)


def _tampered() -> Iterator[Json]:
    packets, _ = _sealed(ping(1), ping(2), _REKEY_PLAIN, ping(3))
    first, second = packets[:2]
    bent = bytearray(first)
    bent[-1] ^= 1
    text = bytearray(first)
    text[4] ^= 1
    longer = len(ping(1)) + 1
    wrong: dict[str, list[bytes]] = {
        "a bit of the tag changed": [bytes(bent)],
        "a bit of the text changed": [bytes(text)],
        "a packet left out": [second],
        "a packet twice": [first, first],
        "packets exchanged": [second, first],
        "another key": [packet(ping(1), digest_of("other key"), 0)],
        "a number in big-endian": [first, packet(ping(2), _KEY, 1 << 56)],
        "numbers that begin again after REKEY": [*packets[:3], packet(ping(3), expand(_KEY, "link rekey", 32), 0)],
        "the old key after REKEY": [*packets[:3], packet(ping(3), _KEY, 3)],
        "another size in its associated data": [longer.to_bytes(4, "little") + first[4:] + b"\x00"],
    }
    for name, received in wrong.items():
        fields: Json = {"key": _KEY, "packets": received, "opened": 0 if received[0] is second else len(received) - 1}
        yield refuse(f"tampered: {name}", (*_TAMPERED, *_SEAL), "TamperedFrame", operation="open", **fields)


def _sizes() -> Iterator[Json]:
    for size, error in (
        (0, _BAD),
        (_MAX + 1, "OversizedMessage"),
        (2**31, "OversizedMessage"),
        (2**32 - 1, "OversizedMessage"),
    ):
        yield refuse(f"a size of {size}", _SIZE, error, operation="size", prefix=size.to_bytes(4, "little"))
    for size in (1, 9, _MAX):
        yield accept(f"a size of {size}", _SIZE, operation="size", prefix=size.to_bytes(4, "little"), size=size)


def _controls() -> Iterator[Json]:
    most = 2**64 - 1
    text, told = "\u00fc" * 100, "BadSignature: it doesn't verify"
    controls: list[tuple[str, bytes, dict[str, Any]]] = [
        ("CREDIT", _credit(0, 2**20), {"stream": 0, "limit": 2**20}),
        ("CREDIT", _credit(2**32 - 1, most), {"stream": 2**32 - 1, "limit": most}),
        ("PING", ping(0), {"nonce": 0}),
        ("PING", ping(most), {"nonce": most}),
        ("PONG", b"\x05" + bytes(range(8)), {"nonce": int.from_bytes(bytes(range(8)), "little")}),
        ("REKEY", _REKEY_PLAIN, {}),
        ("GOODBYE", goodbye(0), {"reason": 0, "text": ""}),
        (
            "GOODBYE",
            goodbye(5, told),
            {"reason": 5, "text": told},
        ),
        ("GOODBYE", goodbye(65535, text), {"reason": 65535, "text": text}),
        ("STREAMS", b"\x08" + (19).to_bytes(4, "little"), {"limit": 19}),
        ("STREAMS", b"\x08" + b"\xff" * 4, {"limit": 2**32 - 1}),
    ]
    for number, (kind, plain, fields) in enumerate(controls):
        clauses = (*_FIELDS, "5.8/4") if kind == "GOODBYE" else _FIELDS
        yield accept(f"{kind} {number}", clauses, operation="control", plain=plain, type=kind, fields=fields)


def _credit(stream: int, limit: int) -> bytes:
    return b"\x03" + stream.to_bytes(4, "little") + limit.to_bytes(8, "little")


def _bad_controls() -> Iterator[Json]:
    for kind in (0, 9, 127, 255):
        for rest in (b"", bytes(8)):
            name = f"type {kind} and {len(rest)} bytes"
            yield refuse(name, _FIELDS, _BAD, operation="control", plain=bytes([kind]) + rest)
    lengths = {3: 13, 4: 9, 5: 9, 6: 1, 8: 5}
    for kind, length in lengths.items():
        for wrong in sorted({1, length - 1, length + 1} - {length, 0}):
            plain = bytes([kind]) + bytes(wrong - 1)
            yield refuse(f"type {kind} of {wrong} bytes", _FIELDS, _BAD, operation="control", plain=plain)
    partings = {
        "of 1 byte": b"\x07",
        "of 2 bytes": b"\x07\x00",
        "with a text of 201 bytes": goodbye(0, "x" * 201),
        "with a text of 101 letters of 2 bytes": goodbye(0, "\u00fc" * 101),
    }
    for name, plain in partings.items():
        yield refuse(f"GOODBYE {name}", _FIELDS, _BAD, operation="control", plain=plain)
    for name, text in (("that isn't UTF-8", b"\xff"), ("cut within a letter", b"\xc3")):
        plain = goodbye(0) + text
        yield refuse(f"GOODBYE with a text {name}", (*_FIELDS, "5.8/3"), _BAD, operation="control", plain=plain)
