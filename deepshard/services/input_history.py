"""What a core took in at a height, out of the log on disk: all of it, with restarts, for a trace."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from deepshard.ballots import Proposal, Vote
from deepshard.consensus.events import (
    Input,
    LockProofReceived,
    ProposalReceived,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import LockProof
from deepshard.disk.input_log import LoggedInput, LoggedKind, LoggedRestart, LoggedTimeout, LoggedValue
from deepshard.encoding import decode
from deepshard.limits import LOCK_PROOF_BYTES_MAX
from deepshard.services.judging import SIGNED_BYTES_MAX

HISTORY: Final = frozenset({LoggedKind.TIMEOUT, LoggedKind.VALUE, LoggedKind.RESTART})
"""Entries that aren't fed to a core that resumes: what came of them is in the guard."""


def inputs_of(entries: Iterable[LoggedInput], start: StartHeight) -> Iterator[Input]:
    """The inputs of a height, from its first start to the last entry of the log.

    A restarted node feeds its core its own votes and then what the log has. Its own last vote may stand in the log
    behind that, where it hadn't been written before: then it comes behind it here, too.

    Raises:
        RemoteError: an entry isn't what its kind says.
    """
    taken: list[Input] = []
    for position, entry in enumerate(entries):
        if entry.kind is LoggedKind.RESTART:
            restart = decode(entry.data, LoggedRestart, bytes_max=SIGNED_BYTES_MAX)
            yield replace(start, safety=restart.safety)
            if restart.safety is not None and start.me is not None:
                yield from (one for one in taken if isinstance(one, VoteReceived) and one.vote.validator == start.me)
            yield from taken
            continue
        if not position:
            yield start
        event = _input_of(entry, start.height)
        yield event
        if entry.kind not in HISTORY:
            taken.append(event)


def _input_of(entry: LoggedInput, height: int) -> Input:
    match entry.kind:
        case LoggedKind.VALID_PROPOSAL | LoggedKind.INVALID_PROPOSAL:
            proposal = decode(entry.data, Proposal, bytes_max=SIGNED_BYTES_MAX)
            return ProposalReceived(proposal, entry.kind is LoggedKind.VALID_PROPOSAL)
        case LoggedKind.VOTE:
            return VoteReceived(decode(entry.data, Vote, bytes_max=SIGNED_BYTES_MAX))
        case LoggedKind.LOCK_PROOF:
            return LockProofReceived(decode(entry.data, LockProof, bytes_max=LOCK_PROOF_BYTES_MAX))
        case LoggedKind.TIMEOUT:
            timeout = decode(entry.data, LoggedTimeout, bytes_max=SIGNED_BYTES_MAX)
            return TimeoutElapsed(timeout.step, height, timeout.round)
        case LoggedKind.VALUE:
            value = decode(entry.data, LoggedValue, bytes_max=SIGNED_BYTES_MAX)
            return ValueBuilt(height, value.round, value.block_id)
        case LoggedKind.RESTART:
            raise AssertionError(entry)
