"""What an accepted round pays: pure functions from stakes and measured gains to amounts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepshard.ledger.params import Params
from deepshard.ledger.records import BatchSegment, Probe
from deepshard.ledger.transactions import ProbeScore
from deepshard.ledger.verdict import REFERENCE, mean_gain


@dataclass(frozen=True, slots=True)
class ProposalGain:
    """What the accepted model gained from one proposal, in millinats: mean over its probed segments, times segments.

    `probed` of its `segments` were measured; a proposal that wasn't probed has no measured gain.
    """

    proposal: bytes
    gain: int
    probed: int
    segments: int


def proposal_gains(
    profile: Sequence[ProbeScore], probes: Sequence[Probe], batch: Sequence[BatchSegment]
) -> tuple[ProposalGain, ...]:
    """Gain of each proposal of the batch beyond the gain on reference text, never negative; in batch order.

    `profile` is the accepted model's (medians over validators), in the order of `probes`.
    """
    reference = mean_gain(profile, probes, REFERENCE) or 0
    owner = {segment.digest: segment.proposal for segment in batch}
    counts: dict[bytes, int] = {}
    for segment in batch:
        counts[segment.proposal] = counts.get(segment.proposal, 0) + 1
    measured: dict[bytes, list[int]] = {proposal: [] for proposal in counts}
    for score, probe in zip(profile, probes, strict=True):
        if probe.pool == "batch":
            measured[owner[probe.digest]].append(score.log_prob - reference)
    return tuple(
        ProposalGain(
            proposal,
            max(0, sum(values) // len(values)) * counts[proposal] if values else 0,
            len(values),
            counts[proposal],
        )
        for proposal, values in measured.items()
    )


def divide(amount: int, shares: Mapping[bytes, int]) -> dict[bytes, int]:
    """`amount` divided in proportion to `shares`, each part rounded down; the caller disposes of the rest."""
    total = sum(shares.values())
    return {owner: amount * share // total if total else 0 for owner, share in shares.items()}


@dataclass(frozen=True, slots=True)
class Split:
    """The minted tokens of a round: the most for informants, the part of trainers, and one informant's cap."""

    informants: int
    trainers: int
    informant_cap: int


def split_minted(params: Params, minted: int) -> Split:
    """Divide `minted` base units between informants and trainers."""
    informants = minted * params.informant_share_bp // 10_000
    return Split(informants, minted - informants, informants * params.informant_cap_bp // 10_000)


def informant_rewards(split: Split, gains: Mapping[bytes, int]) -> dict[bytes, int]:
    """Reward per informant, in proportion to the gain of its data, up to the cap; what is left isn't minted."""
    return {owner: min(part, split.informant_cap) for owner, part in divide(split.informants, gains).items()}
