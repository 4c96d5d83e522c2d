"""`identities.json`: keys from seeds, addresses and their text (chapter 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from deepshard.conformance.vectors.document import Json, accept, document, key_of, refuse
from deepshard.identity import SecretKey
from deepshard.primitives import format_address

_KEYS, _TEXT, _READ = ("3.1/1", "3.1/2", "3.1/3"), ("3.1/3", "3.1/4"), ("3.1/4",)
_BAD: Final = "UsageError"
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz234567"


def make() -> Json:
    """The file."""
    return document(
        "identities",
        "Identities (chapter 3.1): keys from seeds, addresses from keys, text from addresses and back.",
        [*_keys(), *_texts(), *_orders()],
    )


def _keys() -> Iterator[Json]:
    seeds = {
        "zeros": bytes(32),
        "ones": b"\xff" * 32,
        "0 to 31": bytes(range(32)),
        "alice": key_of("alice").seed,
    }
    for name, seed in seeds.items():
        key = SecretKey(seed)
        text = format_address(key.address)
        yield accept(f"seed: {name}", _KEYS, seed=seed, public_key=key.public, address=key.address, text=text)


def _texts() -> Iterator[Json]:
    for name, address in (("zeros", bytes(20)), ("ones", b"\xff" * 20), ("0 to 19", bytes(range(20)))):
        yield accept(f"text of {name}", _TEXT, text=format_address(address), address=address)
    good = format_address(bytes(range(20)))
    last = _LETTERS.index(good[-1])
    for bits in range(1, 8):
        text = good[:-1] + _LETTERS[last ^ bits]
        yield refuse(f"the unused bits are {bits}", _READ, _BAD, why="the last letter has bits to spare", text=text)
    wrong = {
        "no prefix": good[3:],
        "another prefix": "dx1" + good[3:],
        "a prefix in capitals": "DS1" + good[3:],
        "all in capitals": good.upper(),
        "one capital": good[:10] + good[10:].upper()[:1] + good[11:],
        "a letter changed": good[:20] + ("a" if good[20] != "a" else "b") + good[21:],
        "the last letter changed": good[:-1] + _LETTERS[(last + 8) % 32],
        "two letters exchanged": good[:15] + good[16] + good[15] + good[17:],
        "a letter too few": good[:-1],
        "a letter too many": good + "a",
        "padding": good + "=",
        "a digit outside of base32": good[:20] + "1" + good[21:],
        "a letter with an accent": good[:20] + "\xe1" + good[21:],
        "a space inside": good[:20] + " " + good[20:],
        "nothing": "",
        "the prefix alone": "ds1",
    }
    for name, text in wrong.items():
        yield refuse(name, _READ, _BAD, text=text)


def _orders() -> Iterator[Json]:
    addresses = [key_of(f"order {number}").address for number in range(6)] + [bytes(20), b"\x00" * 19 + b"\x01"]
    yield accept("the order of addresses", ("3.1/5",), unordered=addresses, ordered=sorted(addresses))
