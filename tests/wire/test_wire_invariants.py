"""Whatever comes, however it is cut: a session gives events, and `open` a message or the peer's error."""

from __future__ import annotations

from itertools import pairwise

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_sessions import data_plain, established_pair, frame_plain, messages, said, sealed

from deepshard.errors import RemoteError
from deepshard.limits import PACKET_BYTES_MAX
from deepshard.wire.events import Failed, PeerLeft
from deepshard.wire.frames import Payload, prepare
from deepshard.wire.messages import CATALOGUE, BlobReply, BlobStatus, Priority, Status, Votes
from deepshard.wire.receiving import RawFrame
from deepshard.wire.session import Session

ATTACHMENT = b"".join(number.to_bytes(4, "little") for number in range(40_000))


def conversation() -> tuple[Session, bytes]:
    """A listener, and what a dialler says to it: votes, a blob in several packets, a height."""
    dialler, listener = established_pair()
    dialler.send(Votes((b"v" * 500, b"w")))
    dialler.send(BlobReply(1, bytes(32), BlobStatus.FOUND), ATTACHMENT)
    spoken = said(dialler)
    dialler.send(Status(4))
    return listener, spoken + said(dialler)


@given(st.lists(st.integers(0, 70_000), max_size=12))
@settings(max_examples=30, deadline=None)
def test_any_cuts_give_the_same_messages(cuts: list[int]) -> None:
    listener, spoken = conversation()
    expected = messages(listener, listener.receive(spoken, 0.0))
    listener, spoken = conversation()
    received = []
    for begin, end in pairwise([0, *sorted(cut % len(spoken) for cut in cuts), len(spoken)]):
        received += messages(listener, listener.receive(spoken[begin:end], 0.0))
        assert len(listener._buffer) <= PACKET_BYTES_MAX + 36
    assert received == expected


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_packets_that_open_give_events(plains: list[bytes]) -> None:
    dialler, listener = established_pair()
    for plain in plains:
        for event in listener.receive(sealed(dialler, plain), 0.0):
            assert isinstance(event, Failed | PeerLeft | RawFrame)
            if isinstance(event, RawFrame):
                opened(listener, event)


@given(
    kind=st.sampled_from(sorted(CATALOGUE)) | st.integers(0, 65535),
    body=st.binary(max_size=300),
    stream=st.sampled_from([0, 1, 2]),
    compressed=st.booleans(),
    declared=st.integers(0, 1000),
)
@settings(max_examples=200, deadline=None)
def test_any_signed_frame_gives_a_message_or_the_error_of_a_peer(
    kind: int, body: bytes, stream: int, declared: int, *, compressed: bool
) -> None:
    dialler, listener = established_pair()
    size = declared if compressed else len(body)
    payload = Payload(kind, Priority.GOSSIP, int(compressed), body, size, blake3(body).digest(), b"", bytes(32))
    plain = frame_plain(dialler, payload, stream=stream, sequence=0)
    for event in listener.receive(sealed(dialler, plain), 0.0):
        if isinstance(event, RawFrame):
            opened(listener, event)


@given(st.binary(min_size=1, max_size=400))
@settings(max_examples=50, deadline=None)
def test_data_of_any_content_is_either_the_attachment_or_refused(data: bytes) -> None:
    dialler, listener = established_pair()
    attached = prepare(BlobReply(1, bytes(32), BlobStatus.FOUND), b"x" * 200)
    begin = sealed(dialler, frame_plain(dialler, attached, stream=2, sequence=0))
    events = listener.receive(begin + sealed(dialler, data_plain(2, data)), 0.0)
    complete = [event for event in events if isinstance(event, RawFrame)]
    assert (data == b"x" * 200) == bool(complete)


def opened(session: Session, frame: RawFrame) -> None:
    try:
        session.open(frame)
    except RemoteError:
        session.close()
    else:
        session.consumed(frame)
