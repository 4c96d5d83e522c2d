"""Jobs the node gives its compute worker, and what comes back. Paths are on the machine both run on.

No torch here: the node imports this file.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from deepshard.ledger.params import ProbePlan, Recipe
from deepshard.ledger.transactions import ProbeScore


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of jobs and results (maps, since both ends are one version of one program)."""


class ModelRef(JobRecord, frozen=True):
    """A model as a manifest file and the folder of its chunks and blobs (a `ChunkStore` root)."""

    manifest: bytes
    """Content address of the manifest, itself a blob in the store."""
    store: str


class ImportModel(JobRecord, frozen=True, tag="import"):
    """Turn `source` (`tiny`, `smollm2`, a directory, or a hub's `owner/name`) into a manifest and chunks in `store`."""

    source: str
    store: str


class ImportResult(JobRecord, frozen=True, tag="imported"):
    """Address of the manifest, root of the decoded weights, root and number of leaves of the chunk tree."""

    manifest: bytes
    weights_root: bytes
    chunks_root: bytes
    shard_count: int
    parameters: int
    encoded_bytes: int


class Train(JobRecord, frozen=True, tag="train"):
    """Fine-tune `base` on the segments, in the order `order_seed` fixes, and store the result as delta chunks."""

    base: ModelRef
    segments: tuple[str, ...]
    """Texts, in batch order."""
    weights_bp: tuple[int, ...]
    recipe: Recipe
    order_seed: bytes
    micro_batch: int
    """Segments per forward pass: how this machine splits a step; doesn't change what is computed."""
    store: str


class TrainResult(JobRecord, frozen=True, tag="trained"):
    """Address of the new manifest, roots, and the loss of each step in nats a token."""

    manifest: bytes
    weights_root: bytes
    chunks_root: bytes
    shard_count: int
    checkpoint_root: bytes
    losses: tuple[float, ...]
    encoded_bytes: int
    changed_share: float


ScoringPath = Literal["auto", "resident", "streamed"]
"""How a model is scored: in memory, layer by layer out of its chunks, or, for `auto`, in memory if it fits there."""


class ScoreTexts(JobRecord, frozen=True, tag="score-texts"):
    """Measure texts under a model, for a curator."""

    model: ModelRef
    texts: tuple[str, ...]
    tokens_max: int
    perturbations: int
    seed: bytes
    scoring: ScoringPath = "auto"
    memory_bytes: int = 0
    """Limit for weights and states; 0 for a share of what the machine has left."""


class TextScore(JobRecord, frozen=True):
    """One text: mean log-prob and perturbation discrepancy in nats a token, conditional curvature as a z-value."""

    tokens: int
    log_prob: float
    conditional_curvature: float
    perturbation_curvature: float


class TextScores(JobRecord, frozen=True, tag="text-scores"):
    """Scores in the order of the texts."""

    scores: tuple[TextScore, ...]


class Profile(JobRecord, frozen=True, tag="profile"):
    """Score submissions against their base on drawn probes, and sketch their updates."""

    base: ModelRef
    submissions: tuple[ModelRef, ...]
    probes: tuple[str, ...]
    """Probe texts in the order of `probes.draw_probes`."""
    plan: ProbePlan
    seed: bytes
    """The round's probe seed."""
    scoring: ScoringPath = "auto"
    memory_bytes: int = 0
    """As in `ScoreTexts`."""


class SubmissionProfile(JobRecord, frozen=True):
    """Profile and sketch of one submission; `error` says why it can't be scored (bad chunks, wrong root)."""

    profile: tuple[ProbeScore, ...]
    sketch: tuple[int, ...]
    weights_root: bytes
    error: str


class ProfileResult(JobRecord, frozen=True, tag="profiled"):
    """Profiles in the order of the submissions, and the base's own scores, which they are differences from."""

    base: tuple[ProbeScore, ...]
    submissions: tuple[SubmissionProfile, ...]
    scored_by: str = ""
    """The operator that scored, and its path, for people."""


class ChatMessage(JobRecord, frozen=True):
    """One turn of a conversation."""

    role: str
    content: str


class Generate(JobRecord, frozen=True, tag="generate"):
    """Continue a conversation; the model stays loaded for the next request."""

    model: ModelRef
    messages: tuple[ChatMessage, ...]
    max_tokens: int
    temperature: float
    seed: int


class GenerateResult(JobRecord, frozen=True, tag="generated"):
    """The whole answer; its pieces went out as progress."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


Job = ImportModel | Train | ScoreTexts | Profile | Generate
JobResult = ImportResult | TrainResult | TextScores | ProfileResult | GenerateResult


class Progress(JobRecord, frozen=True, tag="progress"):
    """How far a job is (`done` of `total` in `unit`); for generation `text` is the next piece."""

    stage: str
    done: int
    total: int
    text: str = ""


class JobFailed(JobRecord, frozen=True, tag="failed"):
    """The job could not be done; `message` is one line for a person, `kind` the exception's name."""

    kind: str
    message: str
