"""Without a network: what signatures, handshake and codec cost in one process."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from deepshard.ballots import Vote, VoteKind
from deepshard.encoding import decode, encode
from deepshard.identity.keys import SecretKey, verify_signature
from deepshard.wire.frames import FRAME_TAG
from deepshard.wire.handshake import LocalNode
from deepshard.wire.session import Session
from deepshard.wire.states import State

from .rows import Row

SIGNED_BYTES = 32 + 30 + 32 + 32
"""Session id, header, digest of the body, digest of the attachment."""


def seconds_per_call(function: Callable[[], object], *, calls: int, runs: int) -> float:
    """Median over runs of the processor time of one call."""
    taken = []
    for _ in range(runs):
        started = time.thread_time()
        for _ in range(calls):
            function()
        taken.append((time.thread_time() - started) / calls)
    return median(taken)


def signature_seconds(*, runs: int) -> tuple[float, float]:
    """Processor time to sign a frame and to verify it."""
    key = SecretKey(bytes(32))
    payload = bytes(SIGNED_BYTES)
    signature = key.sign(FRAME_TAG, payload)
    sign_s = seconds_per_call(lambda: key.sign(FRAME_TAG, payload), calls=500, runs=runs)
    verify_s = seconds_per_call(
        lambda: verify_signature(key.public, FRAME_TAG, payload, signature), calls=500, runs=runs
    )
    return sign_s, verify_s


def handshake_seconds(number: int) -> tuple[float, float]:
    """Processor time of the dialler and of the listener, from their secrets to an established link."""
    spent = [0.0, 0.0]
    now = time.monotonic()
    sides: list[Session] = []
    for side, dialling in enumerate((True, False)):
        local = LocalNode(SecretKey(bytes([side + 1]) * 32), "bench", bytes(32), ("validator",), "127.0.0.1:9000")
        secret = number.to_bytes(31, "little") + bytes([side])
        started = time.thread_time()
        sides.append(Session(local, dialling=dialling, ephemeral_secret=secret, nonce=secret, now=now))
        spent[side] += time.thread_time() - started
    said = b""
    for turn in range(5):
        side = turn % 2
        started = time.thread_time()
        sides[side].receive(said, now)
        said = b"".join(sides[side].packets())
        spent[side] += time.thread_time() - started
    assert sides[0].state is sides[1].state is State.ESTABLISHED
    return spent[0], spent[1]


def handshake_rows(*, handshakes: int) -> list[Row]:
    spent = [handshake_seconds(number) for number in range(handshakes)]
    names = ("handshake, dialler", "handshake, listener")
    return [
        Row(name, 1e3 * median(side), "CPU ms", 3.0, at_least=False)
        for name, side in zip(names, zip(*spent, strict=True), strict=True)
    ]


def codec_rows(*, runs: int) -> list[Row]:
    vote = Vote(VoteKind.PRECOMMIT, 123_456, 2, -1, bytes(range(32)), bytes(range(20)), bytes(range(64)))
    data = encode(vote)
    assert decode(data, Vote, bytes_max=512) == vote
    encode_s = seconds_per_call(lambda: encode(vote), calls=5000, runs=runs)
    decode_s = seconds_per_call(lambda: decode(data, Vote, bytes_max=512), calls=5000, runs=runs)
    nothing_s = seconds_per_call(lambda: None, calls=5000, runs=runs)
    beside = {"microseconds of the empty call included": nothing_s * 1e6}
    return [
        Row("vote, encode", encode_s * 1e6, "CPU us", 2.0, at_least=False, beside=beside),
        Row("vote, canonical decode", decode_s * 1e6, "CPU us", 2.0, at_least=False),
    ]
