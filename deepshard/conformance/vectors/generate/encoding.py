"""`encoding.json`: values and their one form, and every way to write them that has to be refused."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, positional, refuse
from deepshard.conformance.vectors.generate import forms

_BOUND: Final = 1 << 20
_SHOWN: Final = 4096
"""Of values that encode to more bytes, only the length is given."""
_BAD: Final = "MalformedMessage"
_FORMS, _OTHER, _TEXT, _KINDS = ("2.1/1", "2.4/3"), ("2.1/2",), ("2.1/3",), ("2.1/4",)
_FIELDS, _TAGS, _NESTED, _NONE, _ENUMERATION = ("2.2/1", "2.2/2"), ("2.2/3",), ("2.2/4",), ("2.2/5",), ("2.2/6",)
_BOUNDS, _SIZES, _INPUT, _ENDS, _DECLARED, _DEPTH = (
    ("2.3/2",),
    ("2.3/1", "2.3/2"),
    ("2.4/1",),
    ("2.4/2",),
    ("2.4/4",),
    ("2.4/5",),
)


def make() -> Json:
    """The file."""
    return document(
        "encoding",
        "Canonical encoding (chapter 2): bytes that decode to a value, and bytes that have to be refused.",
        [
            *_integers(),
            *_longer_integers(),
            *_lengths(),
            *_other_forms(),
            *_texts(),
            *_kinds(),
            *_bounds(),
            *_records(),
            *_broken_records(),
            *_ends(),
            *_hostile(),
        ],
    )


def _good(name: str, clauses: tuple[str, ...], kind: str, value: Any) -> Json:  # noqa: ANN401
    data = forms.encoded(value)
    shown = {"length": len(value)} if len(data) > _SHOWN else {"value": positional(value)}
    return accept(name, clauses, type=kind, bytes_max=_BOUND, encoded=data, **shown)


def _bad(name: str, clauses: tuple[str, ...], kind: str, data: bytes, why: str) -> Json:
    return refuse(name, clauses, _BAD, why=why, type=kind, bytes_max=_BOUND, encoded=data)


def _integers() -> Iterator[Json]:
    edges = [0, 1, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32]
    edges += [2**53 - 1, 2**53, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
    edges += [-1, -32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31), -(2**31) - 1, -(2**53) - 1, -(2**63)]
    for value in edges:
        yield _good(f"integer {value}", _FORMS, "int", value)


def _longer_integers() -> Iterator[Json]:
    for value in (0, 127, 128, 255, 256, 2**16 - 1, 2**16, 2**32 - 1, 2**32, 2**63 - 1):
        shortest = forms.integer(value)
        for width in (1, 2, 4, 8):
            for form, write in (("unsigned", forms.unsigned), ("signed", forms.signed)):
                fits = value < 1 << 8 * width - (form == "signed")
                if fits and write(value, width) != shortest:
                    name = f"integer {value} in {form} {8 * width} bits"
                    yield _bad(name, _FORMS, "int", write(value, width), f"the shortest form is {shortest.hex()}")
    for value in (-1, -32, -33, -128, -129, -(2**15), -(2**15) - 1, -(2**31)):
        shortest = forms.integer(value)
        for width in (1, 2, 4, 8):
            if value >= -(1 << 8 * width - 1) and forms.signed(value, width) != shortest:
                name = f"integer {value} in signed {8 * width} bits"
                yield _bad(name, _FORMS, "int", forms.signed(value, width), f"the shortest form is {shortest.hex()}")


def _lengths() -> Iterator[Json]:
    for size in (0, 1, 255, 256, 2**16 - 1, 2**16):
        yield _good(f"bytes of length {size}", _FORMS, "bytes", b"\xab" * size)
        for width in (2, 4):
            if size < 1 << 8 * width // 2:
                why = f"the length {size} fits fewer bytes"
                data = forms.binary(b"\xab" * size, width)
                yield _bad(f"bytes of length {size} with {width} bytes of length", _FORMS, "bytes", data, why)
    for size in (0, 1, 31, 32, 255, 256, 2**16 - 1, 2**16):
        yield _good(f"text of length {size}", _FORMS, "str", "a" * size)
        for width, below in ((1, 32), (2, 256), (4, 2**16)):
            if size < below:
                data = forms.text("a" * size, width)
                name = f"text of length {size} with {width} bytes of length"
                yield _bad(name, _FORMS, "str", data, f"the length {size} fits fewer bytes")
    for count in (0, 1, 15, 16, 2**16 - 1, 2**16):
        yield _good(f"list of {count}", _FORMS, "list of int", [7] * count)
        for width, below in ((2, 16), (4, 2**16)):
            if count < below:
                data = forms.array([b"\x07"] * count, width)
                name = f"list of {count} with {width} bytes of count"
                yield _bad(name, _FORMS, "list of int", data, f"the count {count} fits fewer bytes")


def _other_forms() -> Iterator[Json]:
    floats = {"5.0": 5.0, "0.0": 0.0, "-0.0": -0.0, "0.5": 0.5, "infinity": float("inf"), "not a number": float("nan")}
    for name, value in floats.items():
        for code, form, bits in ((b"\xca", ">f", 32), (b"\xcb", ">d", 64)):
            why = "floating point doesn't occur"
            yield _bad(f"floating point {name} of {bits} bits", _OTHER, "Amount", code + struct.pack(form, value), why)
    yield _bad("the byte c1", _OTHER, "int", b"\xc1", "c1 isn't a form")
    extensions = {"fixext 1": "d4ff00", "fixext 4, a time": "d6ff00000000", "ext 8 of nothing": "c70005"}
    for name, digits in extensions.items():
        yield _bad(f"extension: {name}", _OTHER, "bytes", bytes.fromhex(digits), "extensions don't occur")
    height = b"\xa6height\x05"
    yield _bad("a map for a record", _OTHER, "Status", b"\x81" + height, "maps don't occur")
    yield _bad("a map with a key twice", _OTHER, "Status", b"\x82" + height + height, "maps don't occur")
    yield _bad("an empty map for an empty list", _OTHER, "list of int", b"\x80", "maps don't occur")


def _texts() -> Iterator[Json]:
    good = {"zero": "a\x00b", "code points of four bytes": "\U0001f600", "not normalised": "e\u0301", "normal": "\xe9"}
    for name, value in good.items():
        yield _good(f"text: {name}", _TEXT, "str", value)
    wrong = {
        "a byte that never occurs": "ff",
        "an end within a code point": "61e282",
        "an overlong form": "c0af",
        "an overlong zero": "c080",
        "a surrogate": "eda080",
        "a pair of surrogates": "eda080edb080",
        "a code point beyond 10ffff": "f4908080",
        "a continuation alone": "80",
    }
    for name, digits in wrong.items():
        yield _bad(f"text: {name}", _TEXT, "str", forms.text(bytes.fromhex(digits)), "it isn't well-formed UTF-8")


def _kinds() -> Iterator[Json]:
    wrong = [
        ("text for bytes", "Digest", forms.text("a" * 32)),
        ("bytes for text", "str", forms.binary(b"ab")),
        ("an integer for false", "bool", b"\x00"),
        ("an integer for true", "bool", b"\x01"),
        ("true for an integer", "Count", forms.TRUE),
        ("nil for an integer", "Count", forms.NIL),
        ("nil for bytes", "bytes", forms.NIL),
        ("nil for a list", "list of int", forms.NIL),
        ("text for an integer", "Count", forms.text("5")),
        ("a list for bytes", "bytes", forms.array([b"\x01", b"\x02"])),
        ("bytes for a list", "list of int", forms.binary(b"\x01\x02")),
        ("an integer for a record", "Status", b"\x05"),
        ("a list for an integer in a list", "list of int", forms.array([forms.array([])])),
    ]
    for name, kind, data in wrong:
        yield _bad(name, _KINDS, kind, data, "a value of another type")
    for kind, value in (("bool", True), ("bool", False), ("Digest or none", None), ("Digest or none", digest_of("x"))):
        yield _good(f"{kind}: {positional(value)}", _NONE if "none" in kind else _KINDS, kind, value)
    yield _bad("false for none", _NONE, "Digest or none", forms.FALSE, "none is nil")
    yield _bad("empty bytes for none", _NONE, "Digest or none", forms.binary(b""), "none is nil")


def _bounds() -> Iterator[Json]:
    ranges = {
        "Height": (0, 2**62),
        "Amount": (0, 2**62),
        "Count": (0, 2**31 - 1),
        "ValidRound": (-1, 2**31 - 1),
        "BasisPoints": (0, 10_000),
        "Millinats": (-(2**40), 2**40),
        "int": (-(2**63), 2**64 - 1),
    }
    for kind, (low, high) in ranges.items():
        yield _good(f"the least {kind}", _BOUNDS, kind, low)
        yield _good(f"the largest {kind}", _BOUNDS, kind, high)
        if kind != "int":
            yield _bad(f"less than the least {kind}", _BOUNDS, kind, forms.integer(low - 1), f"below {low}")
            yield _bad(f"more than the largest {kind}", _BOUNDS, kind, forms.integer(high + 1), f"above {high}")
    for kind, size in (("Digest", 32), ("PublicKey", 32), ("Signature", 64), ("Address", 20)):
        yield _good(f"{kind} of {size} bytes", _BOUNDS, kind, bytes(range(size)))
        for wrong in (0, size - 1, size + 1):
            yield _bad(f"{kind} of {wrong} bytes", _BOUNDS, kind, forms.binary(bytes(wrong)), f"it has {size} bytes")
    for size in (1, 4):
        yield _good(f"text of {size} characters", _SIZES, "str(1..4)", "\u20ac" * size)
    for size in (0, 5):
        data = forms.text("a" * size)
        yield _bad(f"text of {size} characters", _SIZES, "str(1..4)", data, "it has 1 to 4 characters")
    for size in (1, 2, 4, 5):
        data = forms.binary(bytes(size))
        name, kind = f"bytes(2..4) of {size}", "bytes(2..4)"
        yield _good(name, _SIZES, kind, bytes(size)) if 2 <= size <= 4 else _bad(name, _SIZES, kind, data, "2 to 4")
    for count in (0, 1, 3, 4):
        data = forms.array([b"\x07"] * count)
        name, kind = f"list(1..3) of {count}", "list(1..3) of Count"
        yield _good(name, _SIZES, kind, [7] * count) if 1 <= count <= 3 else _bad(name, _SIZES, kind, data, "1 to 3")


VOTE: Final = [2, 7, 1, -1, digest_of("block"), bytes(range(20)), bytes(range(64))]
REPLY: Final = [1, bytes(32), 3]
TRANSFER: Final = ["transfer", bytes(20), 5]


def _records() -> Iterator[Json]:
    values: list[tuple[str, str, Any]] = [
        ("a record of one field", "Status", [2**40]),
        ("a record with an enumeration", "BlobReply", REPLY),
        ("a record with negative and zero", "ReportScores", ["report-scores", 1, [], [[-3000, 0, 0]]]),
        ("a vote", "Vote", VOTE),
        ("a tagged record", "Action", TRANSFER),
        ("a record in a list in a record", "Account", [3, 10**18, 0, [[5, 100], [6, 101]]]),
        ("text with many bytes for few characters", "Claims", [bytes(32), ["\u20ac" * 16], ""]),
        ("a record within a record", "TransactionBody", ["net", bytes(32), 0, ["bond", 2**62, bytes(32)]]),
        ("a tuple", "tuple (Count, str)", [5, "five"]),
        ("none within a record", "ProofReply", [1, 2, None, b"\x00"]),
        ("empty bytes within a record", "ProofReply", [1, 2, b"", b"\x00"]),
    ]
    for name, kind, value in values:
        yield _good(name, (*_FIELDS, *_TAGS, *_NESTED, *_ENUMERATION), kind, value)


def _broken_records() -> Iterator[Json]:
    vote, parts = forms.encoded(VOTE), [forms.encoded(value) for value in VOTE]
    yield _bad("a vote with a field too many", _FIELDS, "Vote", forms.array([*parts, forms.NIL]), "seven fields")
    yield _bad("a vote with a field too few", _FIELDS, "Vote", forms.array(parts[:-1]), "seven fields")
    yield _bad("an account without its last, empty list", _FIELDS, "Account", forms.encoded([0, 0, 0]), "four fields")
    yield _bad("an account of no fields", _FIELDS, "Account", forms.encoded([]), "four fields")
    yield _bad("a vote with two fields swapped", _FIELDS, "Vote", forms.array(parts[::-1]), "fields have an order")
    yield _bad("an unknown tag", _TAGS, "Action", forms.encoded(["burn", bytes(20), 5]), "no action is called so")
    yield _bad("a tag in capitals", _TAGS, "Action", forms.encoded(["Transfer", bytes(20), 5]), "tags are exact")
    yield _bad("no tag", _TAGS, "Action", forms.encoded([bytes(20), 5]), "the tag comes first")
    yield _bad("a tag as bytes", _TAGS, "Action", forms.encoded([b"transfer", bytes(20), 5]), "a tag is text")
    yield _bad("the tag of another record", _TAGS, "Action", forms.encoded(["unbond", bytes(20), 5]), "one field")
    yield _bad("a tag on a record without", _TAGS, "Status", forms.encoded(["status", 5]), "it has no tag")
    yield _bad("a tuple of three", _NESTED, "tuple (Count, str)", forms.encoded([5, "five", 5]), "exactly two")
    yield _bad("a tuple of one", _NESTED, "tuple (Count, str)", forms.encoded([5]), "exactly two")
    yield _bad("a number that no status has", _ENUMERATION, "BlobReply", forms.encoded([1, bytes(32), 4]), "0 to 3")
    yield _bad("an enumeration by name", _ENUMERATION, "BlobReply", forms.encoded([1, bytes(32), "BUSY"]), "a number")
    slices, zero = [[0, 0, 1]], bytes(32)
    for codec, why in (("gzip", "no codec is called so"), (0, "a codec is text")):
        entry = forms.encoded([slices, 4, zero, codec, zero, 4, zero])
        yield _bad(f"the codec {codec}", _ENUMERATION, "ShardEntry", entry, why)
    longer = vote.replace(b"\x97\x02\x07", b"\x97\x02\xcc\x07", 1)
    yield _bad("a longer integer within a vote", _FORMS, "Vote", longer, "the shortest form is 07")


def _ends() -> Iterator[Json]:
    for kind, value in (("Vote", VOTE), ("BlobReply", REPLY), ("Action", TRANSFER), ("int", 2**40), ("str", "four")):
        data = forms.encoded(value)
        why = "it ends within the value"
        fields: Json = {"type": kind, "bytes_max": _BOUND, "every_prefix_of": data}
        yield refuse(f"{kind} cut at every byte", (*_ENDS, "2.4/3"), _BAD, why=why, **fields)
        for extra in (b"\x00", b"\xc0", data):
            yield _bad(f"{kind} and then {extra[:4].hex()}", _ENDS, kind, data + extra, "bytes after the value")
    fits = b"\xcd\x01\xff"
    yield accept("as long as its bound", _INPUT, type="int", bytes_max=3, encoded=fits, value=511)
    yield refuse("longer than its bound", _INPUT, "OversizedMessage", type="int", bytes_max=2, encoded=b"\xcd\x01\xff")
    junk = b"\xc1" * 11
    yield refuse("the bound is checked first", _INPUT, "OversizedMessage", type="int", bytes_max=10, encoded=junk)


def _hostile() -> Iterator[Json]:
    largest = b"\xff\xff\xff\xff"
    for name, kind, code in (
        ("bytes", "bytes", b"\xc6"),
        ("text", "str", b"\xdb"),
        ("list", "list of int", b"\xdd"),
        ("list of bytes", "list of bytes", b"\xdd"),
        ("list for a record", "Vote", b"\xdd"),
    ):
        why = "it declares four billion and ends"
        yield _bad(f"a {name} of 2^32 - 1 that isn't there", _DECLARED, kind, code + largest, why)
        yield _bad(f"a {name} of 2^32 - 1 with one byte", _DECLARED, kind, code + largest + b"\x00", why)
    yield _bad("a record whose bytes declare too much", _DECLARED, "BlobReply", b"\x93\x01\xc6" + largest, "it ends")
    yield _bad("lists in lists, 100,000 deep", _DEPTH, "list of int", b"\x91" * 100_000, "integers are expected")
    yield _bad("lists in a record, 100,000 deep", _DEPTH, "Vote", b"\x96" + b"\x91" * 100_000, "an integer is expected")
    yield _bad("maps in maps, 100,000 deep", _DEPTH, "Action", b"\x81" * 100_000, "maps don't occur")
    yield _bad("nothing", _ENDS, "Vote", b"", "there is no value")
