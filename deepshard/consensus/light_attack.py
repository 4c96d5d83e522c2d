"""What two light blocks of one height that both verify come to: evidence for everybody, and who is to blame.

A light client that finds them can't know which is false. A whole node knows its own chain, so it can tell; and it can
tell a real attack, whose signers had power on its chain, from two headers that somebody signed with validators of its
own making.
"""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.consensus.forensics import (
    ConflictingCommits,
    DecidedHeader,
    conflicting_commits,
    culprits,
    verify_conflicting_commits,
)
from deepshard.consensus.light import InsufficientTrust, LightBlock, LightState, check_trust
from deepshard.consensus.light_events import LightAttack
from deepshard.consensus.types import CommitCertificate


@dataclass(frozen=True, slots=True)
class Blame:
    """Addresses of who signed what.

    Attributes:
        convicted: they signed both headers in one round, which no honest validator does.
        signers: of the two headers, in the order of the evidence. Where nobody is convicted, some of those of the false
            header are to blame: it has signers enough to be believed, and no honest one among them.
    """

    convicted: tuple[bytes, ...]
    signers: tuple[tuple[bytes, ...], tuple[bytes, ...]]


def evidence_of(attack: LightAttack) -> ConflictingCommits:
    """The evidence that anybody can check."""
    return conflicting_commits(_decided(attack.first), _decided(attack.second))


def blame(evidence: ConflictingCommits, chain_id: str) -> Blame:
    """Who signed what.

    Raises:
        InvalidEvidence: it isn't two decisions of one height of this chain.
    """
    convicted = culprits(verify_conflicting_commits(evidence, chain_id))
    return Blame(
        tuple(sorted(convicted)), (_signers(evidence.first.certificate), _signers(evidence.second.certificate))
    )


def judge(evidence: ConflictingCommits, common: LightState, *, now_ms: int, trusting_period_ms: int) -> Blame:
    """Check evidence from `common`, a state of one's own chain below the two headers; who signed what.

    Raises:
        InvalidEvidence: it isn't two decisions of one height of this chain.
        TrustExpired: `common` is so old that its validators may have nothing left to lose.
        InsufficientTrust: one of the headers isn't above `common`, or no more than a third of its power signed it.
    """
    check_trust(common, now_ms, trusting_period_ms)
    height = evidence.first.header.height
    for one in (
        evidence.first,
        evidence.second,
    ):  # before any signature is checked: anybody can sign with keys of its own
        power = sum(common.validators.power_of(address) for address in set(_signers(one.certificate)))
        if height <= common.height or not common.validators.has_honest(power):
            raise InsufficientTrust(common.height, height, power, common.validators.total_power)
    return blame(evidence, common.chain_id)


def _decided(block: LightBlock) -> DecidedHeader:
    return DecidedHeader(block.header, block.certificate, block.validators)


def _signers(certificate: CommitCertificate) -> tuple[bytes, ...]:
    return tuple(entry.validator for entry in certificate.signatures)
