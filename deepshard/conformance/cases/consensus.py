"""Chapter 9: what the target proposes and votes, and what it makes of forgeries. The suite is a member of its mesh."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_bytes

from deepshard.ballots import Proposal, Vote, VoteKind
from deepshard.conformance import expect
from deepshard.conformance.chain_view import headers
from deepshard.conformance.harness import Harness
from deepshard.conformance.inbound import Packet
from deepshard.conformance.opening import MEMBER, Self
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Lane, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.consensus.certificates import verify_proposal, verify_vote
from deepshard.consensus.types import Block, LockProof, LockProofVote
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST
from deepshard.wire.messages import BlockProposal, Message, ProofOfLock, Status, Votes

VOTE_BYTES_MAX = 512
TRIES = 6
OF_EACH_HEIGHT = 3
HEIGHTS = 2
Make = Callable[[ValidatorSet, int], Message]


async def _member(harness: Harness) -> RawPeer:
    return await harness.link(Self.fresh(MEMBER))


async def _validators(peer: RawPeer) -> ValidatorSet:
    """The set of the height being decided, unless it changes just now."""
    status, _ = await expect.message(peer, Status)
    if status.height == 0:
        raise CaseSkipped("the target has no blocks yet")
    found = await headers(peer, status.height, 1)
    peer.messages.append(Packet(1, message=status))
    return found[0].light.validators


async def _observed(peer: RawPeer, heights: int) -> list[Message]:
    """Proposals and votes that come while the target decides some heights."""
    status, _ = await expect.message(peer, Status)
    last = status.height + heights
    peer.timeout_s *= 4
    await expect.message(peer, Status, lambda later: later.height >= last, expected=f"Status of height {last}")
    return [packet.message for packet in peer.messages if isinstance(packet.message, Votes | BlockProposal)]


@case(
    "9.2/2",
    "9.2/3",
    title="the votes that the target sends are its validators', and their signatures hold",
    lane=Lane.MESH,
)
async def votes_hold(harness: Harness) -> None:
    peer = await _member(harness)
    validators = await _validators(peer)
    votes = await _votes(peer)
    for vote in votes:
        try:
            verify_vote(harness.target.network.chain_id, validators, vote)
        except RemoteError as error:
            raise peer.failed("votes whose signatures hold", str(error)) from None


async def _votes(peer: RawPeer) -> list[Vote]:
    encoded = [
        each for message in await _observed(peer, HEIGHTS) if isinstance(message, Votes) for each in message.votes
    ]
    if not encoded:
        raise peer.failed("votes of the height being decided", "none", "9.3/10")
    try:
        return [decode(each, Vote, bytes_max=VOTE_BYTES_MAX) for each in encoded]
    except RemoteError as error:
        raise peer.failed("votes as in 9.2", str(error), "9.2/8") from None


@case("9.3/1", title="no validator that the target speaks for votes twice", lane=Lane.MESH)
async def no_equivocation(harness: Harness) -> None:
    peer = await _member(harness)
    chosen: dict[tuple[object, ...], tuple[bytes, int]] = {}
    for vote in await _votes(peer):
        key = (vote.kind, vote.height, vote.round, vote.validator)
        signed = (vote.block_id, vote.valid_round)
        if chosen.setdefault(key, signed) != signed:
            raise peer.failed("one vote of a kind in a round", f"two of {vote.validator.hex()} at height {vote.height}")


@case("9.2/4", "9.4/1", title="the proposals that the target sends are by whose turn it is, and signed", lane=Lane.MESH)
async def proposals_hold(harness: Harness) -> None:
    peer = await _member(harness)
    validators = await _validators(peer)
    for proposal, _ in await _proposals(peer):
        try:
            verify_proposal(harness.target.network.chain_id, validators, proposal)
        except RemoteError as error:
            raise peer.failed("a proposal by whose turn it is", str(error)) from None


async def _proposals(peer: RawPeer) -> list[tuple[Proposal, Block]]:
    found = [message for message in await _observed(peer, HEIGHTS) if isinstance(message, BlockProposal)]
    if not found:
        raise peer.failed("proposals of the height being decided", "none", "9.3/10")
    try:
        return [
            (
                decode(message.proposal, Proposal, bytes_max=VOTE_BYTES_MAX),
                decode(message.block, Block, bytes_max=BLOCK_BYTES_MAX),
            )
            for message in found
        ]
    except RemoteError as error:
        raise peer.failed("proposals as in 9.2", str(error), "9.2/8") from None


@case("9.2/7", "10.2/1", title="a proposal comes with the block that it names", lane=Lane.MESH)
async def proposed_block(harness: Harness) -> None:
    peer = await _member(harness)
    for proposal, block in await _proposals(peer):
        if block.header.block_id() != proposal.block_id or block.header.height != proposal.height:
            raise peer.failed(f"block {proposal.block_id.hex()}", f"block {block.header.block_id().hex()}")


def _forged_vote(validators: ValidatorSet, height: int) -> Message:
    address = validators.validators[0].address
    return Votes((encode(Vote(VoteKind.PREVOTE, height, 0, -1, token_bytes(32), address, token_bytes(64))),))


def _vote_on_its_own_round(validators: ValidatorSet, height: int) -> Message:
    address = validators.validators[0].address
    return Votes((encode(Vote(VoteKind.PREVOTE, height, 0, 0, token_bytes(32), address, token_bytes(64))),))


def _strangers_votes(_: ValidatorSet, height: int) -> Message:
    """Signed rightly, by keys that are no validators: six of them are worth a ban."""
    votes = []
    for _number in range(TRIES):
        key = SecretKey(token_bytes(32))
        unsigned = Vote(VoteKind.PREVOTE, height, 0, -1, ZERO_DIGEST, key.address, bytes(64))
        votes.append(encode(Vote(VoteKind.PREVOTE, height, 0, -1, ZERO_DIGEST, key.address, unsigned.signature)))
    return Votes(tuple(votes))


def _forged_proposal(validators: ValidatorSet, height: int) -> Message:
    address = proposer(validators, height, 0).address
    return BlockProposal(encode(Proposal(height, 0, -1, token_bytes(32), address, token_bytes(64))), b"")


def _strangers_proposal(_: ValidatorSet, height: int) -> Message:
    return BlockProposal(encode(Proposal(height, 0, -1, token_bytes(32), token_bytes(20), bytes(64))), b"")


def _proposal_for_nil(validators: ValidatorSet, height: int) -> Message:
    address = proposer(validators, height, 0).address
    return BlockProposal(encode(Proposal(height, 0, -1, ZERO_DIGEST, address, token_bytes(64))), b"")


def _proposal_of_its_own_lock(validators: ValidatorSet, height: int) -> Message:
    address = proposer(validators, height, 0).address
    return BlockProposal(encode(Proposal(height, 0, 0, token_bytes(32), address, token_bytes(64))), b"")


def _lock_proof(height: int, votes: list[LockProofVote], block_id: bytes | None = None) -> Message:
    return ProofOfLock(encode(LockProof(height, 0, token_bytes(32) if block_id is None else block_id, tuple(votes))))


def _all_of(validators: ValidatorSet, valid_round: int = -1) -> list[LockProofVote]:
    return [LockProofVote(entry.address, valid_round, token_bytes(64)) for entry in validators.validators]


def _strangers_lock_proof(_: ValidatorSet, height: int) -> Message:
    addresses = sorted(token_bytes(20) for _number in range(4))
    return _lock_proof(height, [LockProofVote(address, -1, token_bytes(64)) for address in addresses])


@case(
    "9.2/10",
    "6.4/30",
    title="{} isn't passed on, and costs its sender",
    lane=Lane.MESH,
    each={
        "a proof-of-lock with wrong signatures": lambda validators, height: _lock_proof(height, _all_of(validators)),
        "a proof-of-lock of strangers": _strangers_lock_proof,
        "a proof-of-lock of nobody": lambda _, height: _lock_proof(height, []),
        "a proof-of-lock out of order": lambda validators, height: _lock_proof(height, _all_of(validators) * 2),
        "a proof-of-lock for nil": lambda validators, height: _lock_proof(height, _all_of(validators), ZERO_DIGEST),
    },
)
async def forged_lock_proofs(harness: Harness, make: Make) -> None:
    await _not_passed_on(harness, make)


@case(
    "9.2/3",
    "9.2/9",
    "6.4/13",
    title="{} isn't passed on, and costs its sender",
    lane=Lane.MESH,
    each={
        "a vote with a wrong signature": _forged_vote,
        "a prevote that rests on its own round": _vote_on_its_own_round,
        "votes of strangers": _strangers_votes,
    },
)
async def forged_votes(harness: Harness, make: Make) -> None:
    await _not_passed_on(harness, make)


@case(
    "9.2/6",
    "6.4/9",
    title="{} isn't passed on, and costs its sender",
    lane=Lane.MESH,
    each={
        "a proposal with a wrong signature": _forged_proposal,
        "a proposal of a stranger": _strangers_proposal,
        "a proposal for nil": _proposal_for_nil,
        "a proposal with a lock of its own round": _proposal_of_its_own_lock,
    },
)
async def forged_proposals(harness: Harness, make: Make) -> None:
    await _not_passed_on(harness, make)


async def _not_passed_on(harness: Harness, make: Make) -> None:
    """Send a forgery for each height that begins, until the target has had enough of the sender."""
    watcher, forger = await _member(harness), await _member(harness)
    validators = await _validators(forger)
    forged: set[bytes] = set()
    was_banned = False
    for _ in range(TRIES):
        status, _packet = await expect.message(forger, Status)
        for kept in list(forger.messages):  # the newest height counts
            if isinstance(kept.message, Status):
                status = kept.message if kept.message.height > status.height else status
                forger.messages.remove(kept)
        for message in [make(validators, status.height + 1) for _ in range(OF_EACH_HEIGHT)]:
            forged.update(_units(message))
            note = f"forged {type(message).__name__} for the height being decided"
            await forger.send_frame(forger.frame(message), note)
        was_banned = await _next_status_or_ban(forger)
        if was_banned:
            break
    if not was_banned and harness.target.strict:
        raise forger.failed("the sender banned after a few", "the link stayed open", "13.2/2")
    await expect.alive(watcher)
    for packet in watcher.messages:
        if packet.message is not None and forged.intersection(_units(packet.message)):
            watcher.notes.extend(forger.notes)
            raise watcher.failed("nothing forged passed on", f"a forged {type(packet.message).__name__}")


def _units(message: Message) -> tuple[bytes, ...]:
    if isinstance(message, Votes):
        return message.votes
    if isinstance(message, ProofOfLock):
        return (message.proof,)
    return (message.proposal,) if isinstance(message, BlockProposal) else ()


async def _next_status_or_ban(peer: RawPeer) -> bool:
    """Whether the target closes the link before its next block."""
    packet = await expect.until_or_end(peer, lambda packet: isinstance(packet.message, Status))
    if packet is None:
        return True
    peer.messages.append(packet)
    return False


@case(
    "6.4/8",
    "6.4/12",
    "6.4/30",
    title="proposals, votes and proofs-of-lock of heights far ahead are ignored",
    lane=Lane.MESH,
)
async def far_ahead(harness: Harness) -> None:
    peer = await _member(harness)
    for height in (2**40, 2**62):
        vote = Vote(VoteKind.PRECOMMIT, height, 0, -1, token_bytes(32), token_bytes(20), token_bytes(64))
        proposal = Proposal(height, 0, -1, token_bytes(32), token_bytes(20), token_bytes(64))
        await peer.say(Votes((encode(vote),)))
        await peer.say(BlockProposal(encode(proposal), b"\xc1"))
        await peer.say(_lock_proof(height, [LockProofVote(token_bytes(20), -1, token_bytes(64))]))
    await expect.unblamed(peer, "ignored")


@case(
    "13.1/2",
    "7.2/4",
    title="a unit that doesn't decode leaves the link as it is: {}",
    lane=Lane.MESH,
    each={
        "a vote": Votes((b"\xc1",)),
        "a proposal": BlockProposal(b"\xc1", b"\xc1"),
        "a proof-of-lock": ProofOfLock(b"\xc1"),
    },
)
async def one_garbage_unit(harness: Harness, message: Message) -> None:
    peer = await _member(harness)
    await peer.say(message)
    await expect.unblamed(peer, "the link left as it is")
