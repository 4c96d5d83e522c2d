"""`streams.json`: a link after its handshake: order, streams, credit, pings, partings (chapters 5.2 to 5.8).

The listener of the first handshake of `handshake.json` receives; the dialler's packets are given as plain texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from deepshard.conformance.vectors.document import Json, accept, digest_of, document, refuse
from deepshard.conformance.vectors.generate import forms
from deepshard.conformance.vectors.generate.dialogue import Dialogue, goodbye, ping
from deepshard.conformance.vectors.generate.framing import BODIES, body_of, data, frame
from deepshard.conformance.vectors.generate.handshake import ALICE, BOB

_SEQUENCE, _OPEN, _ORDER, _LIMIT, _LOWER, _BUSY = (
    ("5.2/2",),
    ("5.3/1", "5.3/3"),
    ("5.3/2",),
    ("5.3/4",),
    ("5.3/6",),
    ("5.3/7",),
)
_CREDIT, _GIVEN, _PING, _PONG, _RATE, _BYE, _REKEY = (
    ("5.4/2", "5.4/1"),
    ("5.4/3",),
    ("5.7/1",),
    ("5.7/2",),
    ("5.7/3",),
    ("5.8/2",),
    ("5.6/3",),
)
_UNKNOWN: Final = ("5.3/9",)
_FIRST_BULK: Final = 2
_STREAMS_OPEN_MAX: Final = 16
_CREDIT_BYTES: Final = 1 << 20
_CHARGE: Final = 256
_BURST: Final = 16
_BAD, _UNEXPECTED = "MalformedMessage", "UnexpectedMessage"
_LINK: Final = Dialogue(ALICE, BOB)
_KEYS: Final = _LINK.link_keys()


def make() -> Json:
    """The file."""
    groups = (_orders(), _bulk(), _interleaved(), _credits(), _limits(), _pings(), _partings())
    return document(
        "streams",
        "A link after its handshake (chapters 5.2 to 5.8): what may arrive after what, and how much of it.",
        [case for group in groups for case in group],
        listener=BOB.shown(),
        hello=_LINK.first,
        finish=_LINK.finish(),
        to_listener=_KEYS[0],
        to_dialler=_KEYS[1],
        session_id=_KEYS[2],
    )


def _frame(
    kind: int, sequence: int, *, stream: int | None = None, body: bytes | None = None, attachment: int = 0
) -> list[bytes]:
    """Packets of a frame on this link."""
    content = body_of(kind) if body is None else body
    on = BODIES[kind][1] if stream is None else stream
    filled = bytes(attachment)
    return frame(kind, content, stream=on, sequence=sequence, session=_KEYS[2], signer=ALICE.key, attachment=filled)


def _good(name: str, clauses: tuple[str, ...], plains: list[bytes], **results: Any) -> Json:  # noqa: ANN401
    return accept(name, clauses, plains=plains, **{"kinds": [], **results})


def _bad(name: str, clauses: tuple[str, ...], error: str, plains: list[bytes], **fields: Any) -> Json:  # noqa: ANN401
    return refuse(name, clauses, error, plains=plains, **fields)


def _orders() -> Iterator[Json]:
    three = [*_frame(5, 0), *_frame(16, 1), *_frame(18, 2)]
    yield _good("three frames", (*_SEQUENCE, *_OPEN), three, kinds=[5, 16, 18])
    for name, second in (("repeated", 0), ("skipped", 2), ("2^64 - 1", 2**64 - 1)):
        plains = [*_frame(5, 0), *_frame(5, second)]
        yield _bad(f"a sequence number {name}", _SEQUENCE, _BAD, plains)
    apart = [*_frame(5, 0), *_frame(16, 0)]
    yield _bad("a sequence number for each stream", _SEQUENCE, _BAD, apart)
    unknown = frame(999, b"\x90", stream=1, session=_KEYS[2], signer=ALICE.key, sequence=0)
    yield _good("an unknown kind counts", (*_UNKNOWN, *_SEQUENCE), [*unknown, *_frame(5, 1)], kinds=[5])
    unknown = frame(999, b"\x90", stream=2, session=_KEYS[2], signer=ALICE.key, attachment=bytes(10))
    after = _frame(35, 1, stream=3)
    yield _good("an unknown kind with an attachment", _UNKNOWN, [*unknown, *after], kinds=[35])


def _bulk() -> Iterator[Json]:
    plains = [plain for number in range(4) for plain in _frame(35, number, stream=_FIRST_BULK + number)]
    yield _good("bulk streams 2, 3, 4, 5", _ORDER, plains, kinds=[35] * 4)
    for name, numbers in (("3 first", [3]), ("2 twice", [2, 2]), ("4 after 2", [2, 4]), ("2^32 - 1", [2**32 - 1])):
        plains = [plain for place, number in enumerate(numbers) for plain in _frame(35, place, stream=number)]
        yield _bad(f"bulk stream {name}", _ORDER, _BAD, plains)
    many = range(_STREAMS_OPEN_MAX + 1)
    open_ = [_frame(35, number, stream=_FIRST_BULK + number, attachment=10)[0] for number in many]
    yield _good("16 bulk streams open at a time", _LIMIT, open_[:-1])
    yield _bad("a 17th bulk stream", _LIMIT, "StreamLimitExceeded", open_)
    done = [plain for number in range(17) for plain in _frame(35, number, stream=_FIRST_BULK + number)]
    yield _bad("a 17th bulk stream before any is finished with", _LIMIT, "StreamLimitExceeded", done, finished=False)
    again = [*_frame(35, 0, attachment=10), data(2, b"\x00")]
    yield _bad("DATA on a bulk stream that is complete", ("5.2/6", "5.3/3"), _UNEXPECTED, again)


def _interleaved() -> Iterator[Json]:
    reply, rest = _frame(35, 0, attachment=1000)
    halves = [data(2, rest[5:505]), data(2, rest[505:])]
    votes = [*_frame(18, 1), *_frame(5, 2)]
    clauses = ("5.3/1", "5.5/3", "5.1/6")
    plains = [reply, halves[0], *votes, ping(9), halves[1]]
    yield _good("votes between the packets of a shard", clauses, plains, kinds=[18, 5, 35], pongs=[9])
    other, other_rest = _frame(35, 1, stream=3, attachment=1000)
    plains = [reply, other, halves[0], other_rest, halves[1]]
    yield _good("two shards take turns", clauses, plains, kinds=[35, 35])
    body = forms.encoded([[bytes(70_000)]])
    first, second = _frame(16, 0, body=body)
    yield _good("a frame on stream 0 within one of stream 1", clauses, [first, *_frame(5, 1), second], kinds=[5, 16])
    yield _bad("a frame within another of its stream", _BUSY, _UNEXPECTED, [first, *_frame(16, 1)])
    yield _bad("DATA for stream 0 while stream 1 waits", ("5.2/6",), _UNEXPECTED, [first, data(0, second[5:])])
    yield _good("a new key within a frame", (*_REKEY, "5.1/3"), [first, b"\x06", second], kinds=[16])


def _credits() -> Iterator[Json]:
    """What a receiver that isn't done with anything has to take, and what is too much."""
    bodies = [forms.encoded([[bytes(65_536 - _CHARGE - 5)]])] * 16
    exact = [plain for number, body in enumerate(bodies) for plain in _frame(16, number, body=body)]
    note = {"finished": False}
    yield _good("all the credit of stream 1", _CREDIT, exact, kinds=[16] * 16, **note)
    over = [*exact, *_frame(16, 16)]
    yield _bad("a frame more", _CREDIT, "CreditExceeded", over, **note)
    more = [*exact[:-1], *_frame(16, 15, body=forms.encoded([[bytes(65_536 - _CHARGE - 4)]]))]
    yield _bad("a byte more", _CREDIT, "CreditExceeded", more, **note)
    other = [*exact, *_frame(5, 16)]
    yield _good("each stream has its own credit", _CREDIT, other, kinds=[16] * 16 + [5], **note)
    empty = [plain for number in range(4) for plain in _frame(35, number, stream=_FIRST_BULK + number)]
    yield _good("and so has bulk", _CREDIT, [*exact[:8], *_shifted(empty)], kinds=[16] * 8 + [35] * 4, **note)
    why = "the charge of every frame counts"
    full = [*exact[:-1], *_frame(16, 15, body=forms.encoded([[bytes(65_536 - 3 * _CHARGE - 5)]]))]
    tail = [plain for number in range(16, 18) for plain in _frame(10, number)]
    yield _bad("small frames are charged", (*_CREDIT, "5.4/1"), "CreditExceeded", [*full, *tail], why=why, **note)


def _shifted(plains: list[bytes]) -> list[bytes]:
    """Frames of the same streams with sequence numbers from 8 on."""
    return [plain for number in range(len(plains)) for plain in _frame(35, 8 + number, stream=_FIRST_BULK + number)]


def _limits() -> Iterator[Json]:
    raised = [_credit(0, 2 * _CREDIT_BYTES), _credit(1, 2**64 - 1), _credit(1, 2**64 - 1), _streams(100), _streams(100)]
    yield _good("limits raised", (*_GIVEN, *_LOWER), raised)
    yield _good("limits as they are", (*_GIVEN, *_LOWER), [_credit(0, _CREDIT_BYTES), _streams(18)])
    for name, plains, clauses in (
        ("credit of stream 0 below its first", [_credit(0, _CREDIT_BYTES - 1)], _GIVEN),
        ("credit of stream 1 of 0", [_credit(1, 0)], _GIVEN),
        ("credit raised and lowered", [_credit(0, 2 * _CREDIT_BYTES), _credit(0, 2 * _CREDIT_BYTES - 1)], _GIVEN),
        ("credit of a bulk stream that wasn't opened", [_credit(2, 2**30)], _GIVEN),
        ("stream limit below its first", [_streams(17)], _LOWER),
        ("stream limit raised and lowered", [_streams(100), _streams(99)], _LOWER),
    ):
        yield _bad(name, clauses, _BAD, plains)


def _credit(stream: int, limit: int) -> bytes:
    return b"\x03" + stream.to_bytes(4, "little") + limit.to_bytes(8, "little")


def _streams(limit: int) -> bytes:
    return b"\x08" + limit.to_bytes(4, "little")


def _pings() -> Iterator[Json]:
    nonces = [0, 2**64 - 1, 7, 7]
    yield _good("PINGs are answered in order", _PING, [ping(nonce) for nonce in nonces], pongs=nonces)
    burst = [ping(nonce) for nonce in range(_BURST + 1)]
    yield _good("PINGs, as many as may come at once", (*_PING, *_RATE), burst[:-1], pongs=list(range(_BURST)))
    yield _bad("a PING too many at once", _RATE, "RateExceeded", burst)
    answer = b"\x05" + (1).to_bytes(8, "little")
    note = "the listener's first packet was a PING of nonce 1 (4.4)"
    yield _good("the PONG that is due", (*_PONG, "5.9/1"), [answer], note=note)
    yield _bad("a PONG of another nonce", _PONG, _UNEXPECTED, [b"\x05" + (2).to_bytes(8, "little")])
    yield _bad("a PONG twice", _PONG, _UNEXPECTED, [answer, answer])


def _partings() -> Iterator[Json]:
    told = "BadSignature: it doesn't verify"
    for reason, text in ((0, ""), (5, told), (7, "replaced"), (4711, "a reason of its own")):
        left = {"reason": reason, "text": text}
        clauses = ("5.8/2", "5.8/4") if reason > 7 else ("5.8/2",)
        yield _good(f"GOODBYE {reason}", clauses, [goodbye(reason, text)], left=left)
    after = [goodbye(0), *_frame(5, 0), b"\x00", goodbye(1), b"\xff" * 9]
    yield _good("packets after GOODBYE", _BYE, after, left={"reason": 0, "text": ""})
    half = _frame(35, 0, attachment=10)[:1]
    yield _good("GOODBYE within a frame", _BYE, [*half, goodbye(0)], left={"reason": 0, "text": ""})
    yield _bad("an unknown type of packet", ("5.1/5",), _BAD, [b"\x09" + digest_of("x")])
