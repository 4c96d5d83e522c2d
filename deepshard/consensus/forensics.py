"""Who is to blame: evidence from votes, and from two blocks decided at one height.

Where the faulty hold two thirds of the power at most, the votes that two honest nodes counted on the way to different
decisions hold evidence against more than a third of it:

Let A be decided in round r and B in a later one. Then honest nodes counted a quorum of prevotes for a block other than
A in some round after r; take the first, r'. Each of these prevotes names no proof-of-lock, or one that the node knew.
Its round isn't between r and r', since r' is the first. If it is before r, its voters that also precommitted A in r
(more than a third, as two quorums share that) have signed an `Amnesia`. If it is r itself, more than a third prevoted
both in round r: `DuplicateVote`. The same holds for two decisions in one round.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from deepshard.ballots import Vote, VoteKind
from deepshard.consensus.certificates import InvalidCertificate, verify_certificate
from deepshard.consensus.types import CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import Record, decode
from deepshard.evidence import Amnesia, DuplicateVote, Evidence, InvalidEvidence, duplicate_vote, is_amnesia, offence_of
from deepshard.limits import EVIDENCE_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST


class DecidedHeader(Record, frozen=True):
    """A header, the certificate that decides it, and the validators of its height."""

    header: Header
    certificate: CommitCertificate
    validators: ValidatorSet


class ConflictingCommits(Record, frozen=True, tag="conflicting-commits"):
    """Two different headers of one height, each decided: an attack on light clients, or a fork.

    `first` has the smaller block id.
    """

    first: DecidedHeader
    second: DecidedHeader


Accusation = Evidence | ConflictingCommits
"""What a file of evidence holds: the canonical encoding of one of these (protocol-spec, chapter 9.5)."""


def decode_accusation(data: bytes) -> Accusation:
    """Read a file of evidence; not verified.

    Raises:
        RemoteError: it isn't one.
    """
    expected: Any = Accusation
    accusation: Accusation = decode(data, expected, bytes_max=EVIDENCE_BYTES_MAX)
    return accusation


def conflicting_commits(one: DecidedHeader, other: DecidedHeader) -> ConflictingCommits:
    """Evidence from two decided headers in any order; not verified."""
    first, second = sorted((one, other), key=lambda decided: decided.header.block_id())
    return ConflictingCommits(first, second)


def verify_conflicting_commits(attack: ConflictingCommits, chain_id: str) -> tuple[Evidence, ...]:
    """Check that both headers are decided and differ; evidence against those who precommitted both in one round.

    Of certificates of different rounds nobody in particular is convicted by them alone: who forgot its lock shows in
    the prevotes between them (`evidence_in`). Whether the validators are those of that height is for the caller to
    know; those of either header that no chain announced have signed a chain that doesn't exist.

    Raises:
        InvalidEvidence: the headers are of different heights, equal, out of order, or not decided by their validators.
    """
    headers = (attack.first.header, attack.second.header)
    ids = tuple(header.block_id() for header in headers)
    if headers[0].height != headers[1].height or ids[0] >= ids[1]:
        raise InvalidEvidence(
            f"headers {headers[0].height} and {headers[1].height} are not two decisions of one height"
        )
    for decided, block_id in zip((attack.first, attack.second), ids, strict=True):
        header = decided.header
        if header.chain_id != chain_id or header.validators_hash != decided.validators.hash():
            raise InvalidEvidence(f"header {header.height} is of another chain or comes with other validators")
        try:
            verify_certificate(chain_id, decided.validators, decided.certificate, block_id, header.height)
        except InvalidCertificate as error:
            raise InvalidEvidence(f"header {header.height} is not decided: {error}") from error
    keys = {one.address: one.public_key for one in attack.first.validators.validators}
    return evidence_in(
        [
            Vote(VoteKind.PRECOMMIT, one.height, one.round, -1, one.block_id, entry.validator, entry.signature)
            for one in (attack.first.certificate, attack.second.certificate)
            for entry in one.signatures
        ],
        keys,
    )


def evidence_in(votes: Iterable[Vote], keys: Mapping[bytes, bytes]) -> tuple[Evidence, ...]:
    """All evidence in votes with verified signatures, against validators whose public keys are given by address.

    One piece for each kind, height and round of an offence, in the order of validators, heights and rounds.
    """
    cast: dict[tuple[bytes, int], list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.validator in keys:
            cast[vote.validator, vote.height].append(vote)
    found: list[Evidence] = []
    for (validator, _), of_one in sorted(cast.items(), key=lambda item: item[0]):
        of_one.sort(key=lambda vote: (vote.round, vote.kind, vote.block_id, vote.valid_round))
        found += _duplicates(keys[validator], of_one)
        found += _forgotten(keys[validator], of_one)
    return tuple(found)


def _duplicates(public_key: bytes, votes: list[Vote]) -> Iterable[DuplicateVote]:
    first: dict[tuple[int, VoteKind], Vote] = {}
    convicted: set[tuple[int, VoteKind]] = set()
    for vote in votes:
        place = (vote.round, vote.kind)
        known = first.setdefault(place, vote)
        if place not in convicted and (known.block_id, known.valid_round) != (vote.block_id, vote.valid_round):
            convicted.add(place)
            yield duplicate_vote(public_key, known, vote)


def _forgotten(public_key: bytes, votes: list[Vote]) -> Iterable[Amnesia]:
    precommits = [one for one in votes if one.kind is VoteKind.PRECOMMIT and one.block_id != ZERO_DIGEST]
    convicted: set[int] = set()
    for prevote in votes:
        for precommit in precommits:
            if prevote.round not in convicted and is_amnesia(precommit, prevote):
                convicted.add(prevote.round)
                yield Amnesia(public_key, precommit, prevote)


def culprits(evidence: Iterable[Evidence]) -> set[bytes]:
    """Addresses of all who are accused."""
    return {offence_of(one).validator for one in evidence}
