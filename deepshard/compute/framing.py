"""Messages between node and worker: four bytes of length, big-endian, and MessagePack of a job or an answer.

Both ends run on one machine from one installation, so messages are maps; lengths are bounded all the same, since a
worker that has run wild must not take the node with it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from deepshard.compute.jobs import Job, JobFailed, JobResult, Progress
from deepshard.errors import LocalError
from deepshard.limits import COMPUTE_MESSAGE_BYTES_MAX

HEADER_BYTES: Final = 4

Answer = JobResult | JobFailed | Progress
_encoder: Final = msgspec.msgpack.Encoder()
_jobs: Final = msgspec.msgpack.Decoder(Job)
_answers: Final = msgspec.msgpack.Decoder(Answer)


class BadFrame(LocalError):
    """The other end of the worker's socket sent what isn't a message."""


def pack(message: Job | Answer) -> bytes:
    """Length and bytes of a message.

    Raises:
        BadFrame: it is longer than `limits.COMPUTE_MESSAGE_BYTES_MAX`.
    """
    body = _encoder.encode(message)
    if len(body) > COMPUTE_MESSAGE_BYTES_MAX:
        raise BadFrame(f"a {type(message).__name__} of {len(body)} bytes, the limit is {COMPUTE_MESSAGE_BYTES_MAX}")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def body_length(header: bytes) -> int:
    """Length of the body that follows `header`, checked before anything is allocated.

    Raises:
        BadFrame: above the bound.
    """
    length = int.from_bytes(header, "big")
    if length > COMPUTE_MESSAGE_BYTES_MAX:
        raise BadFrame(f"a message of {length} bytes, the limit is {COMPUTE_MESSAGE_BYTES_MAX}")
    return length


def unpack_job(body: bytes) -> Job:
    """Decode a job.

    Raises:
        BadFrame: it isn't one.
    """
    try:
        job: Job = _jobs.decode(body)
    except msgspec.DecodeError as error:
        raise BadFrame(f"not a job: {error}") from None
    return job


def unpack_answer(body: bytes) -> Answer:
    """Decode a worker's answer.

    Raises:
        BadFrame: it isn't one.
    """
    try:
        answer: Answer = _answers.decode(body)
    except msgspec.DecodeError as error:
        raise BadFrame(f"not a worker's answer: {error}") from None
    return answer
