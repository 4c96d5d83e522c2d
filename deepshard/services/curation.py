"""A curator's automatic opinion of a text: measurements to axis scores. Pure.

What a language model of modest size can measure is how a text stands under its own distribution, not whether it is
true; so this opinion is deliberately conservative and a person's vote always replaces it. Five measurements feed the
five axes:

- *surprisal*: minus the mean log-prob, in nats a token. Text the model already predicts is not novel.
- *coherence*: the conditional curvature over the square root of the token count: by how many of its own standard
  deviations a token's log-prob exceeds its expectation (Fast-DetectGPT, arXiv 2310.05130, equation 6, per token).
  Prose scores near zero, keyboard mash far below: its tokens are much less likely than the model's own choice.
- *peakedness*: the perturbation discrepancy (DetectGPT, arXiv 2301.11305, equation 1). Replacing spans of meaningful
  text makes it less likely; replacing spans of noise doesn't.
- *variety*: distinct words over words, which catches repetition.
- *sobriety*: the share of words that aren't shouted, exclaimed or first-person.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from deepshard.ledger.transactions import AxisScores

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?")
_SUBJECTIVE = frozenset(
    (
        *("i", "me", "my", "mine", "we", "our", "best", "worst", "amazing", "awesome", "terrible", "greatest", "love"),
        *("hate", "obviously", "clearly", "must", "everyone", "nobody", "always", "never", "buy", "cheap", "free"),
        *("click", "offer", "winner", "guaranteed", "miracle", "unbelievable", "incredible"),
    )
)
_HARMFUL_HINTS = frozenset(
    ("kill", "murder", "bomb", "exterminate", "genocide", "torture", "rape", "suicide", "lynch"),
)
SHINGLE_WORDS = 4


@dataclass(frozen=True, slots=True)
class Measurement:
    """One segment under the current model; log-probs in nats a token."""

    tokens: int
    log_prob: float
    conditional_curvature: float
    perturbation_curvature: float


def words_of(text: str) -> list[str]:
    """Words of a text, lower-cased."""
    return [word.lower() for word in _WORD.findall(text)]


def shingles(text: str) -> frozenset[str]:
    """Overlapping runs of `SHINGLE_WORDS` words; texts that share many are near-duplicates (Broder 1997)."""
    words = words_of(text)
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return frozenset(" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count)) if words else frozenset()


def duplicate_share(text: str, accepted: Collection[frozenset[str]]) -> float:
    """Largest share of the text's shingles found in one accepted text, 0 to 1."""
    own = shingles(text)
    if not own:
        return 1.0
    return max((len(own & other) / len(own) for other in accepted), default=0.0)


def axis_scores(text: str, measured: Measurement, accepted: Collection[frozenset[str]]) -> AxisScores:
    """Scores in basis points: novelty, reproducibility, alignment, truthfulness, objectivity."""
    words = words_of(text)
    coherence = _ramp(measured.conditional_curvature / math.sqrt(max(measured.tokens, 1)), -0.9, -0.2)
    peakedness = _ramp(measured.perturbation_curvature, 0.0, 0.5)
    variety = _ramp(len(set(words)) / len(words) if words else 0.0, 0.15, 0.45)
    letters = sum(map(len, words)) / max(1, len(re.sub(r"\s", "", text)))
    lexical = _ramp(letters, 0.5, 0.85)
    sense = min(coherence, lexical) * (0.5 + 0.5 * peakedness)
    surprisal = _ramp(-measured.log_prob, 0.3, 1.2)
    novelty = surprisal * variety * (1.0 - duplicate_share(text, accepted)) * (0.3 + 0.7 * sense)
    sobriety = 1.0 - min(1.0, 4.0 * _loud_share(text, words))
    hostility = min(1.0, 20.0 * sum(word in _HARMFUL_HINTS for word in words) / max(1, len(words)))
    scores = (
        novelty,
        sense * variety,
        (1.0 - hostility) * (0.4 + 0.6 * sense * variety),
        sense * variety * (0.6 + 0.4 * sobriety),
        sobriety * (0.3 + 0.7 * sense * variety),
    )
    a, b, c, d, e = (round(10_000 * max(0.0, min(1.0, score))) for score in scores)
    return a, b, c, d, e


def verdict(scores: Collection[AxisScores]) -> bool:
    """Whether a curator accepts: the mean over segments of each axis reaches 40 %, and over all axes 50 %."""
    means: list[float] = [sum(axis) / len(scores) for axis in zip(*scores, strict=True)]
    return min(means) >= 4_000 and sum(means) / len(means) >= 5_000


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _loud_share(text: str, words: list[str]) -> float:
    if not words:
        return 1.0
    shouted: int = sum(len(word) > 3 and word.isupper() for word in _WORD.findall(text))
    return (text.count("!") + shouted + sum(word in _SUBJECTIVE for word in words)) / len(words)
