"""Checks of `frames.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, spell, unspell
from deepshard.encoding import encode
from deepshard.identity import SecretKey
from deepshard.limits import COMPRESS_BYTES_MIN
from deepshard.wire.frames import FrameStart, frame_start, open_body, prepare
from deepshard.wire.messages import Message
from deepshard.wire.receiving import FrameReceiver, RawFrame, ReassemblyBudget

_FRAME = 1


def check(case: Fields) -> Json:
    """Receive the packets of one frame, and build the same where that is determined."""
    receiver = FrameReceiver(ReassemblyBudget())
    received: RawFrame | None = None
    for plain in map(unspell, case["plains"]):
        taken = receiver.receive_frame(plain) if plain[0] == _FRAME else receiver.receive_data(plain, 0.0)
        received = taken or received
    if received is None:
        return {"plains": "not a whole frame"}
    return _opened(case, received)


def _opened(case: Fields, received: RawFrame) -> Json:
    start = received.start
    session_id, peer_key = unspell(case.shared["session_id"]), unspell(case.shared["signer_public_key"])
    message = open_body(start, received.body, peer_key=peer_key, session_id=session_id)
    if message is None:
        return {"kind": start.header.kind, "ignored": True}
    listed: Json = {"kind": message.KIND, "body": encode(message)}
    if "message" in case:
        listed["message"] = type(message).__name__
    if "attachment_digest" in case:
        listed["attachment_digest"] = start.attachment_digest
    return listed | _sent(case, message, start, received.attachment)


def _sent(case: Fields, message: Message, start: FrameStart, attachment: bytes) -> Json:
    """The FRAME packet as our own sender makes it; whether and how well a body is compressed is a sender's choice."""
    if len(encode(message)) >= COMPRESS_BYTES_MIN or start.header.flags:
        return {}
    payload = prepare(message, attachment)
    signer, session_id = SecretKey(unspell(case.shared["signer_seed"])), unspell(case.shared["session_id"])
    plain = frame_start(payload, stream=start.header.stream, sequence=0, signer=signer, session_id=session_id)
    return {"plains": [spell(plain), *case["plains"][1:]]}
