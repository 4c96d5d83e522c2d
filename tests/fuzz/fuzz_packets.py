"""An established session that is fed packets: the harness seals what the fuzzer says, so that it gets behind the AEAD.

The input is a list of chunks whose first byte says what is done with the rest: sealed as a packet; sealed as a FRAME
with header fields mended and signed; sealed as DATA; fed as it is; or time passes. The session's answers are collected
after each, and frames are opened and consumed as a link does.
"""

from __future__ import annotations

from typing import Final

from fuzz_frames import resigned
from harness import Harness, Reader, chunked
from samples import message_samples
from wire_sessions import make_session

from deepshard.errors import RemoteError
from deepshard.limits import (
    BODY_BYTES_MAX,
    MIB,
    PACKET_BYTES_MAX,
    PEER_REASSEMBLY_BYTES_MAX,
)
from deepshard.wire.events import Failed, PeerLeft
from deepshard.wire.frames import _HEADER, FrameHeader, Payload, frame_start, prepare
from deepshard.wire.handshake import Agreement, PeerIdentity
from deepshard.wire.messages import BlobReply, Transactions
from deepshard.wire.packets import (
    Credit,
    Goodbye,
    PacketSealer,
    Ping,
    Pong,
    Rekey,
    Streams,
    pack_control,
)
from deepshard.wire.receiving import RawFrame, ReassemblyBudget
from deepshard.wire.session import Session
from deepshard.wire.states import State

PACKET, FRAME, DATA, RAW, TIME, SAY = range(6)
PEER: Final = make_session(1, dialling=True)._local.key
KEYS: Final = (bytes([1]) * 32, bytes([2]) * 32)
SESSION_ID: Final = bytes(range(32))


class Fed:
    """A session under test, and the other side's hand."""

    def __init__(self) -> None:
        self.budget = ReassemblyBudget()
        self.session = make_session(2, dialling=False, budget=self.budget)
        establish(self.session, PeerIdentity(PEER.public, (), ""))
        self.sealer = PacketSealer(KEYS[1])
        self.sequence = 0
        self.now = 0.0

    def feed(self, data: bytes | bytearray) -> None:
        for event in self.session.receive(data, self.now):
            match event:
                case RawFrame():
                    try:
                        self.session.open(event)
                    except RemoteError:
                        self.session.close()
                        return
                    self.session.consumed(event)
                case Failed() | PeerLeft():
                    self.session.close()
        assert len(self.session._buffer) <= PACKET_BYTES_MAX + 64
        assert 0 <= self.budget.taken <= PEER_REASSEMBLY_BYTES_MAX

    def do(self, chunk: bytes) -> None:
        reader = Reader(chunk)
        match reader.number() % 6:
            case 0:
                if plain := reader.rest():
                    self.feed(self.sealer.seal(plain))
            case 1:
                self.feed(self.sealer.seal(self.frame(reader)))
            case 2:
                if data := reader.rest():
                    self.feed(self.sealer.seal(b"\x02" + data))
            case 3:
                self.feed(reader.rest())
            case 4:
                self.now += reader.number(2) / 100
                self.session.handle_timer(self.now)
            case _:
                self.session.queue(QUEUED[reader.number() % len(QUEUED)])
        self.session.packets(1 << 20)

    def frame(self, reader: Reader) -> bytes:
        """A FRAME packet whose magic, version, sequence and signature are good, the rest the fuzzer's."""
        mended = reader.number() & 1
        plain = b"\x01" + reader.rest()
        if len(plain) < 31:
            return plain
        header = FrameHeader._make(_HEADER.unpack_from(plain, 1))
        header = header._replace(magic=b"DS", version=2, flags=header.flags & 1, sequence=self.sequence)
        if mended:
            fixed = 95 + (32 if header.attachment_bytes else 0)
            size = max(0, len(plain) - fixed)
            header = header._replace(sent_bytes=size, body_bytes=header.body_bytes if header.flags else size)
        plain = b"\x01" + header.pack() + plain[31:]
        try:
            plain = resigned(plain, session_id=SESSION_ID, key=PEER)
        except RemoteError:
            return plain
        self.sequence += 1
        return plain


def establish(session: Session, peer: PeerIdentity) -> None:
    """As after a handshake with these keys."""
    session._agree(Agreement(peer, KEYS[0], KEYS[1], SESSION_ID, ()))
    session.state = State.ESTABLISHED
    session.packets()


def check(data: bytes) -> None:
    fed = Fed()
    for chunk in Reader(data).chunks():
        if fed.session.is_closed:
            break
        fed.do(chunk)
    fed.session.close()
    assert fed.budget.taken == 0


def seeds() -> dict[str, bytes]:
    def op(kind: int, *parts: bytes) -> bytes:
        return bytes((kind,)) + b"".join(parts)

    def frame(payload: Payload, stream: int, *, sequence: int = 0) -> bytes:
        plain = frame_start(payload, stream=stream, sequence=sequence, signer=PEER, session_id=SESSION_ID)
        return op(FRAME, b"\x00", plain[1:])

    found = {}
    for message in message_samples():
        stream = int(message.PRIORITY)
        found[type(message).__name__] = chunked(frame(prepare(message), stream), op(PACKET, pack_control(Ping(1))))
    blob = next(one for one in message_samples() if isinstance(one, BlobReply))
    attached = prepare(blob, bytes(3000))
    pieces = [op(DATA, (2).to_bytes(4, "little"), bytes(1000))] * 3
    found["attachment"] = chunked(frame(attached, 2), *pieces)
    found["two-streams"] = chunked(frame(attached, 2), pieces[0], frame(attached, 3, sequence=1), *pieces)
    found["compressed"] = chunked(frame(prepare(Transactions((bytes(1000),))), 1))
    controls = (Credit(0, 1 << 21), Streams(20), Ping(7), Rekey(), Ping(8), Pong(1), Goodbye(0, "bye"))
    found["controls"] = chunked(*(op(PACKET, pack_control(control)) for control in controls))
    found["answers"] = chunked(
        op(SAY, b"\x00"), op(SAY, b"\x01"), op(PACKET, pack_control(Credit(2, 1 << 20))), op(TIME, b"\xff\xff")
    )
    found["raw"] = chunked(op(RAW, b"\x09\x00\x00\x00" + bytes(41)))
    return found


QUEUED: Final = [prepare(message, bytes(200_000) if message.ATTACHES else b"") for message in message_samples()]

HARNESS: Final = Harness(check, seeds, shape="chunks", memory_bytes_max=4 * BODY_BYTES_MAX + MIB)
