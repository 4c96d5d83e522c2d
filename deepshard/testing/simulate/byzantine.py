"""What Byzantine nodes do. They run the real services; what leaves them is rewritten for each receiver.

The equivocation here is a coherent attack: the second group sees another valid block for each that is proposed, and
votes of all Byzantine nodes for that one. Twins (Bano et al., "Twins: BFT Systems Made Robust", 2021) are two honest
instances of one key, each with its own disk and peers; the world starts them.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from deepshard.ballots import NO_ROUND, PROPOSAL_TAG, VOTE_TAG, Proposal, Vote
from deepshard.consensus.types import Block
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.limits import BLOCK_BYTES_MAX, FUTURE_ROUNDS_MAX, VOTES_PER_STEP_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.network import Port
from deepshard.testing.simulate.plan import Fault
from deepshard.wire.messages import (
    BlockProposal,
    Blocks,
    BlocksRequest,
    Graft,
    IHave,
    IWant,
    Message,
    Prune,
    Status,
    Transactions,
    Votes,
)

FLOOD_MESSAGES = 12


class Conspiracy:
    """What the Byzantine nodes of a run share: the second block for each that one of them proposed."""

    def __init__(self, chain_id: str) -> None:
        self.chain_id = chain_id
        self._twins: dict[bytes, tuple[bytes, bytes]] = {}

    def other_block(self, block_id: bytes, encoded: bytes) -> tuple[bytes, bytes]:
        """Id and encoding of another block that is as valid: a millisecond later."""
        if block_id not in self._twins:
            block = decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX)
            header = msgspec.structs.replace(block.header, time_ms=block.header.time_ms + 1)
            self._twins[block_id] = header.block_id(), encode(msgspec.structs.replace(block, header=header))
        return self._twins[block_id]

    def other_id(self, block_id: bytes) -> bytes:
        """What to vote for instead."""
        other = self._twins.get(block_id)
        if other is not None:
            return other[0]
        return ZERO_DIGEST if block_id != ZERO_DIGEST else next(reversed(self._twins), ZERO_DIGEST)


class Traitor:
    """Rewrites what one Byzantine node sends."""

    def __init__(self, key: SecretKey, conspiracy: Conspiracy, log: EventLog, rng: random.Random) -> None:
        self.active: list[Fault] = []
        self._recent: Vote | None = None
        self._key, self._conspiracy, self._log, self._rng = key, conspiracy, log, rng

    def rewrite(self, target: Port, message: Message) -> Sequence[Message]:
        """What a receiver gets instead of a message."""
        sent: list[Message] = [message]
        if isinstance(message, Votes):
            self._recent = next(filter(None, map(self._own_vote, message.votes)), self._recent)
        for fault in self.active:
            is_among = not fault.others or target.number in fault.others
            match fault.kind:
                case "equivocate" if is_among:
                    sent = [self._equivocate(one) for one in sent]
                case "withhold" if is_among and self._rng.random() < fault.amount:
                    sent = [kept for one in sent if (kept := self._withheld(one)) is not None]
                case "squander" if is_among:
                    sent = [part for one in sent for part in self._squander(one)]
                case "lie":
                    sent = [self._lie(one) for one in sent]
                case "garbage" if self._rng.random() < fault.amount * 0.3:
                    self._log.seen["garbage"] += 1
                    sent = [*sent, self._garbage(message)]
                case "flood" if self._rng.random() < fault.amount * 0.3:
                    self._log.seen["flood"] += 1
                    sent = [*sent, *(self._flood() for _ in range(FLOOD_MESSAGES))]
                case _:
                    pass
        return sent

    # -- signatures ---------------------------------------------------------------------------------------------------

    def _vote(self, vote: Vote) -> bytes:
        signature = self._key.sign(VOTE_TAG, vote.sign_bytes(self._conspiracy.chain_id))
        return encode(msgspec.structs.replace(vote, signature=signature))

    def _own_vote(self, encoded: bytes) -> Vote | None:
        try:
            vote = decode(encoded, Vote, bytes_max=512)
        except RemoteError:
            return None
        return vote if vote.validator == self._key.address else None

    def _own_proposal(self, encoded: bytes) -> Proposal | None:
        proposal = decode(encoded, Proposal, bytes_max=512)
        return proposal if proposal.proposer == self._key.address else None

    # -- attacks ------------------------------------------------------------------------------------------------------

    def _equivocate(self, message: Message) -> Message:
        match message:
            case Votes(votes=votes):
                return Votes(tuple(self._other_vote(one) for one in votes))
            case BlockProposal(proposal=encoded, block=block):
                proposal = self._own_proposal(encoded)
                if proposal is None:
                    return message
                self._log.seen["equivocate"] += 1
                other_id, other = self._conspiracy.other_block(proposal.block_id, block)
                changed = msgspec.structs.replace(proposal, block_id=other_id)
                signature = self._key.sign(PROPOSAL_TAG, changed.sign_bytes(self._conspiracy.chain_id))
                return BlockProposal(encode(msgspec.structs.replace(changed, signature=signature)), other)
            case _:
                return message

    def _other_vote(self, encoded: bytes) -> bytes:
        vote = self._own_vote(encoded)
        if vote is None:
            return encoded
        other = self._conspiracy.other_id(vote.block_id)
        if other == vote.block_id:
            return encoded
        self._log.seen["equivocate"] += 1
        return self._vote(msgspec.structs.replace(vote, block_id=other))

    def _squander(self, message: Message) -> list[Message]:
        """Before each vote as many others as a receiver takes in of one step: what counts is then refused."""
        if not isinstance(message, Votes):
            return [message]
        noise = [
            self._vote(msgspec.structs.replace(vote, block_id=self._rng.randbytes(32), valid_round=NO_ROUND))
            for vote in filter(None, map(self._own_vote, message.votes))
            for _ in range(VOTES_PER_STEP_MAX)
        ]
        self._log.seen["squander"] += len(noise) > 0
        return [Votes(tuple(noise)), message] if noise else [message]

    def _withheld(self, message: Message) -> Message | None:
        match message:
            case Votes(votes=votes):
                kept = tuple(one for one in votes if self._own_vote(one) is None)
                self._log.seen["withhold"] += len(kept) < len(votes)
                return Votes(kept) if kept else None
            case BlockProposal(proposal=encoded) if self._own_proposal(encoded) is not None:
                self._log.seen["withhold"] += 1
                return None
            case Blocks(request=request):
                return Blocks(request, ())
            case _:
                return message

    def _lie(self, message: Message) -> Message:
        match message:
            case Status(height=height):
                self._log.seen["lie"] += 1
                return Status(max(0, height + self._rng.choice((-height, -2, 1, 3, 100, 2**40))))
            case Blocks(request=request, blocks=blocks) if blocks:
                self._log.seen["lie"] += 1
                damaged = [(self._flip(block), certificate) for block, certificate in blocks]
                return Blocks(request, tuple(self._rng.choice((damaged, damaged[1:], blocks[:1], blocks[::-1]))))
            case _:
                return message

    def _flip(self, data: bytes) -> bytes:
        place = self._rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << self._rng.randrange(8))]) + data[place + 1 :]

    def _garbage(self, message: Message) -> Message:
        noise = self._rng.randbytes(self._rng.randint(0, 200))
        match message:
            case Votes(votes=votes) if votes:
                return Votes((self._flip(self._rng.choice(votes)),))
            case BlockProposal(proposal=proposal, block=block):
                if self._rng.random() < 0.5:
                    return BlockProposal(proposal, self._flip(block))
                return BlockProposal(self._flip(proposal), block)
            case _:
                return self._rng.choice(
                    (
                        Votes((noise,)),
                        BlockProposal(noise, noise),
                        Transactions((noise,)),
                        Blocks(self._rng.randrange(4), ((noise, noise),)),
                        BlocksRequest(1, self._rng.choice((0, 1, 2**40)), 64),
                        Graft(self._rng.randrange(256)),
                        Prune(0, self._rng.randrange(100)),
                        IHave(self._rng.randrange(3), (self._rng.randbytes(16),)),
                        IWant((self._rng.randbytes(16),) * 3),
                    )
                )

    def _flood(self) -> Message:
        noise = self._rng.randbytes(32)
        template = self._recent
        if template is None or self._rng.random() < 0.3:
            return Transactions((noise,))
        round_ = template.round + self._rng.choice((0, 1, 2, 5, FUTURE_ROUNDS_MAX, 1000))
        return Votes((self._vote(msgspec.structs.replace(template, round=round_, block_id=noise)),))
