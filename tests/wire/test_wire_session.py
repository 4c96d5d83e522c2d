from __future__ import annotations

import os
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepshard.errors import LocalError, OversizedMessage
from deepshard.identity.keys import SecretKey
from deepshard.limits import HANDSHAKE_TIMEOUT_S, LINK_IDLE_TIMEOUT_S, PING_INTERVAL_S
from deepshard.wire.frames import FIRST_BOX_BYTES_MAX, TamperedFrame
from deepshard.wire.handshake import LocalNode
from deepshard.wire.messages import BlobReply, BlobStatus, Goodbye, Ping, Pong, Status, Votes
from deepshard.wire.session import (
    TRANSITIONS,
    Answer,
    Arrival,
    Established,
    Event,
    Failed,
    LinkTimeout,
    MessageReceived,
    PeerLeft,
    Session,
    State,
    UnexpectedMessage,
)


def make_session(number: int, *, dialling: bool, now: float = 0.0) -> Session:
    local = LocalNode(SecretKey(bytes([number]) * 32), "chain", bytes(32))
    seed = bytes([number + 100]) * 32
    return Session(local, dialling=dialling, ephemeral_secret=seed, nonce=seed, now=now)


def established_pair() -> tuple[Session, Session]:
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False)
    listener.receive(dialler.bytes_to_send(), 0.0)
    dialler.receive(listener.bytes_to_send(), 0.0)
    listener.receive(dialler.bytes_to_send(), 0.0)
    for event in dialler.receive(listener.bytes_to_send(), 0.0):
        if isinstance(event, Answer):
            listener.receive(b"".join(dialler.send(event.message)), 0.0)
    assert dialler.state is listener.state is State.ESTABLISHED
    return dialler, listener


def comparable(events: list[Event]) -> list[object]:
    return [(type(event.error), str(event.error)) if isinstance(event, Failed) else event for event in events]


def fed(data: bytes, piece: int) -> list[object]:
    """Events of a listener that hears `data`, what a dialler of fixed secrets says, in pieces of a size."""
    listener = make_session(2, dialling=False)
    events: list[Event] = []
    for start in range(0, len(data), piece):
        events += listener.receive(data[start : start + piece], 0.0)
    return comparable(events)


def recorded_conversation() -> bytes:
    """All that the dialler says to the listener of `fed`; all secrets are fixed, so it can be said again."""
    dialler, listener = make_session(1, dialling=True), make_session(2, dialling=False)
    said = dialler.bytes_to_send()
    listener.receive(said, 0.0)
    dialler.receive(listener.bytes_to_send(), 0.0)
    finish = dialler.bytes_to_send()
    listener.receive(finish, 0.0)
    dialler.receive(listener.bytes_to_send(), 0.0)
    said += finish
    for message, attachment in (
        (Pong(1), b""),
        (Votes((b"v" * 400, b"w")), b""),
        (BlobReply(3, bytes(32), BlobStatus.FOUND), b"blob" * 200),
        (Ping(9), b""),
        (Status(4), b""),
    ):
        said += b"".join(dialler.send(message, attachment))
    return said


def test_bytes_fed_whole_or_one_at_a_time_give_the_same_events() -> None:
    said = recorded_conversation()
    events = fed(said, len(said))
    kinds = [type(event) for event in events]
    assert kinds == [Established, MessageReceived, MessageReceived, Answer, MessageReceived]
    assert events[3] == Answer(Pong(9))
    for piece in (1, 7, 100):
        assert fed(said, piece) == events


def test_garbage_behind_good_frames_takes_nothing_from_them() -> None:
    good = recorded_conversation()
    said = good + b"\xff" * 30
    for piece in (1, 7, 100, len(said)):
        *before, failed = fed(said, piece)
        assert before == fed(good, len(good))
        assert failed == (OversizedMessage, str(OversizedMessage("frame body", 2**32 - 1, FIRST_BOX_BYTES_MAX)))


def test_truncated_at_every_byte_nothing_is_invented() -> None:
    said = recorded_conversation()
    whole = fed(said, len(said))
    for end in range(len(said)):
        events = fed(said[:end], end or 1)
        assert events == whole[: len(events)]
        assert len(events) < len(whole)


@given(data=st.binary(max_size=2000), dialling=st.booleans())
@settings(max_examples=100)
def test_any_bytes_in_a_handshake_give_events(data: bytes, dialling: bool) -> None:  # noqa: FBT001
    session = make_session(3, dialling=dialling)
    events = session.receive(data, 0.0)
    assert all(isinstance(event, Failed) for event in events)
    assert session.state is not State.ESTABLISHED


@given(
    kind=st.sampled_from([1, 2, 3, 255, 0, 77]),
    body=st.binary(max_size=300),
    dialling=st.booleans(),
)
@settings(max_examples=100)
def test_any_handshake_message_gives_events(kind: int, body: bytes, dialling: bool) -> None:  # noqa: FBT001
    session = make_session(3, dialling=dialling)
    payload = bytes((kind, 1)) + body
    events = session.receive(len(payload).to_bytes(2, "little") + payload, 0.0)
    [failed] = events
    assert isinstance(failed, Failed)
    assert session.state is State.CLOSED


@given(data=st.binary(min_size=1, max_size=600), position=st.integers(0, 400))
@settings(max_examples=60)
def test_any_bytes_on_an_established_link_give_events(data: bytes, position: int) -> None:
    dialler, listener = established_pair()
    frame = bytearray(b"".join(dialler.send(Votes((b"x" * 300,)))))
    frame[position : position + len(data)] = data
    events = listener.receive(frame, 0.0)
    assert len(events) <= 2
    assert all(isinstance(event, Failed | MessageReceived) for event in events)


def test_after_a_failure_nothing_more_is_heard() -> None:
    dialler, listener = established_pair()
    [failed] = listener.receive(b"\xff" * 8, 0.0)
    assert isinstance(failed, Failed)
    assert listener.receive(b"".join(dialler.send(Status(1))), 0.0) == []
    assert listener.next_deadline() == float("inf")
    assert listener.handle_timer(10**6) == []


def test_a_frame_with_a_changed_byte_ends_the_link() -> None:
    dialler, listener = established_pair()
    frame = bytearray(b"".join(dialler.send(Status(1))))
    frame[-1] ^= 1
    [failed] = listener.receive(frame, 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TamperedFrame)


def test_a_declared_size_allocates_nothing_before_its_bytes_come() -> None:
    _, listener = established_pair()
    largest = (4 << 20).to_bytes(4, "little") + (8 << 20).to_bytes(4, "little")
    tracemalloc.start()
    try:
        assert listener.receive(largest, 0.0) == []
        assert listener.receive(bytes(1000), 0.0) == []
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_large_attachments_arrive_in_pieces() -> None:
    dialler, listener = established_pair()
    attachment = os.urandom(4 << 20)
    reply = BlobReply(1, bytes(32), BlobStatus.FOUND)
    data = b"".join(dialler.send(reply, attachment))
    events: list[Event] = []
    for start in range(0, len(data), 1 << 18):
        events += listener.receive(memoryview(data)[start : start + (1 << 18)], 0.0)
    [received] = events
    assert isinstance(received, MessageReceived)
    assert (received.message, received.attachment) == (reply, attachment)


def test_goodbye_closes_and_what_follows_is_not_read() -> None:
    dialler, listener = established_pair()
    data = b"".join(dialler.send(Goodbye("done\nnow")) + dialler.send(Status(1)))
    assert listener.receive(data, 0.0) == [PeerLeft("done?now")]
    assert listener.state is State.CLOSED


def test_pongs_answer_our_pings_in_order_and_once() -> None:
    dialler, listener = established_pair()
    [answer] = dialler.handle_timer(PING_INTERVAL_S)
    assert answer == Answer(Ping(1))
    assert isinstance(answer, Answer)
    assert listener.receive(b"".join(dialler.send(answer.message)), 1.0) == [Answer(Pong(1))]
    pong = b"".join(listener.send(Pong(1)))
    assert dialler.receive(pong, 1.0) == []
    [failed] = dialler.receive(b"".join(listener.send(Pong(1))), 1.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, UnexpectedMessage)


def test_a_handshake_has_a_deadline() -> None:
    session = make_session(1, dialling=False, now=100.0)
    assert session.next_deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    session.receive(b"\x10", 109.0)
    assert session.next_deadline() == 100.0 + HANDSHAKE_TIMEOUT_S
    assert session.handle_timer(109.9) == []
    [failed] = session.handle_timer(110.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, LinkTimeout)
    assert failed.error.penalty == 0


def test_silence_is_pinged_and_then_ends_the_link() -> None:
    _, session = established_pair()
    times: list[float] = []
    events: list[Event] = []
    while session.state is State.ESTABLISHED:
        times.append(session.next_deadline())
        events += session.handle_timer(times[-1])
    assert times == [PING_INTERVAL_S, 2 * PING_INTERVAL_S, 3 * PING_INTERVAL_S, LINK_IDLE_TIMEOUT_S]
    assert events[:3] == [Answer(Ping(2)), Answer(Ping(3)), Answer(Ping(4))]
    assert isinstance(events[3], Failed)


def test_silence_while_nobody_listened_does_not_count() -> None:
    _, session = established_pair()
    session.resume(1000.0)
    assert session.next_deadline() == 1000.0 + PING_INTERVAL_S


def test_nothing_can_be_sent_before_the_handshake_is_finished() -> None:
    with pytest.raises(LocalError, match="before the handshake"):
        make_session(1, dialling=True).send(Status(1))


def test_every_state_is_in_the_table_and_closed_is_final() -> None:
    assert set(TRANSITIONS) == set(State)
    assert TRANSITIONS[State.CLOSED] == {}
    reached = {state for arrivals in TRANSITIONS.values() for state in arrivals.values()}
    assert reached == set(State) - {State.AWAIT_HELLO, State.AWAIT_REPLY}
    assert {arrival for arrivals in TRANSITIONS.values() for arrival in arrivals} == set(Arrival)


def test_a_pong_must_carry_the_nonce_of_the_oldest_unanswered_ping() -> None:
    dialler, listener = established_pair()
    dialler.handle_timer(PING_INTERVAL_S)
    [failed] = dialler.receive(b"".join(listener.send(Pong(2))), 1.0)
    assert isinstance(failed, Failed)
    assert str(failed.error) == "Pong with nonce 2, pings sent 1"


def test_a_frame_sent_back_does_not_even_open() -> None:
    dialler, _ = established_pair()
    [failed] = dialler.receive(b"".join(dialler.send(Status(1))), 0.0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, TamperedFrame)
