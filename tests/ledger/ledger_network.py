"""A small chain without a network: accounts with keys, blocks built one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.identity import SecretKey
from deepshard.ledger import BlockContext, BlockResult, OnionChain, execute_block, genesis_state
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator, Params
from deepshard.ledger.probes import probes_of_round
from deepshard.ledger.records import Probe, Receipt, TrainingRound
from deepshard.ledger.state import State
from deepshard.ledger.transactions import (
    Action,
    CommitVote,
    CommitWeights,
    JoinRound,
    ProbeScore,
    ProposeData,
    ReportScores,
    RevealVote,
    RevealWeights,
    SegmentRef,
    SubmissionReport,
    sign_transaction,
    vote_commitment,
    weights_commitment,
)
from deepshard.limits import SKETCH_BUCKETS
from deepshard.primitives import content_digest
from deepshard.testing.builders import SMALL_PARAMS

CHAIN_ID = "ledger-test"
TOKEN = 10**9
# Blocks that are far apart: so a dozen of them are time enough for light clients.
PARAMS = replace(SMALL_PARAMS, unbonding_blocks=12, block_interval_ms=600_000, trusting_period_ms=60_000)


def key(name: str) -> SecretKey:
    return SecretKey(content_digest(name.encode()))


def digest(name: str) -> bytes:
    return content_digest(name.encode())


VALIDATORS = [key(f"validator {i}") for i in range(4)]
TRAINERS = sorted((key(f"trainer {i}") for i in range(4)), key=lambda one: one.address)
INFORMANT = key("informant")
BUYER = key("buyer")
STRANGER = key("stranger")
PEOPLE = [*VALIDATORS, *TRAINERS, INFORMANT, BUYER, STRANGER]
ONIONS = {person.address: OnionChain(person.seed, 300) for person in PEOPLE}
BALANCE = 5000 * TOKEN


def genesis_of(params: Params = PARAMS) -> Genesis:
    return Genesis(
        chain_id=CHAIN_ID,
        time_ms=0,
        params=params,
        validators=tuple(GenesisValidator(v.public, 1000 * TOKEN, ONIONS[v.address].tip) for v in VALIDATORS),
        accounts=tuple(GenesisAccount(person.address, BALANCE) for person in PEOPLE[:-1]),
        manifest=digest("manifest 0"),
        weights_root=digest("weights 0"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=tuple(digest(f"heldout {i}") for i in range(3)),
        general=tuple(digest(f"general {i}") for i in range(3)),
        canaries=tuple(digest(f"canary {i}") for i in range(2)),
    )


def base_profile(probes: int) -> tuple[ProbeScore, ...]:
    """What the base model scores: 3 nats a token on every probe, 1 millinat less on each next one."""
    return tuple(ProbeScore(-3000 - number, 100, 200) for number in range(probes))


class Network:
    """A chain whose blocks the test decides."""

    def __init__(self, **changes: Any) -> None:
        self.genesis = genesis_of(replace(PARAMS, **changes))
        self.state: State = genesis_state(self.genesis)
        self.receipts: list[Receipt] = []
        self.total = self.state.money()

    @property
    def params(self) -> Params:
        return self.genesis.params

    def sign(self, sender: SecretKey, *actions: Action) -> list[bytes]:
        nonce = self.state.account(sender.address).nonce
        return [sign_transaction(sender, CHAIN_ID, nonce + i, action) for i, action in enumerate(actions)]

    def context(self) -> BlockContext:
        height = self.state.chain().height + 1
        active = self.state.active_validators()
        proposer = active[height % len(active)][0]
        record = self.state.validator(proposer)
        assert record is not None
        return BlockContext(CHAIN_ID, height, proposer, ONIONS[proposer].preimage(record.onion_tip))

    def block(self, *transactions: bytes) -> BlockResult:
        result = execute_block(self.state, self.context(), transactions)
        self.state = result.state
        self.receipts += result.receipts
        supply = self.state.supply()
        assert self.state.money() == supply.genesis + supply.minted - supply.burned
        return result

    def blocks_until(self, reached: Callable[[State], bool], limit: int = 40) -> None:
        for _ in range(limit):
            if reached(self.state):
                return
            self.block()
        raise AssertionError("not reached")

    def propose(self, *texts: str, sender: SecretKey = INFORMANT, stake: int = 20 * TOKEN) -> bytes:
        segments = tuple(SegmentRef(digest(text), 100) for text in texts)
        before = {proposal.id for proposal in self.state.proposals()}
        self.block(*self.sign(sender, ProposeData(segments, "title", "en", "CC0", stake)))
        (new,) = {proposal.id for proposal in self.state.proposals()} - before
        return new

    def ballot(self, proposal: bytes, *, accept: bool, harmful: bool = False, predicted: int = 7000) -> RevealVote:
        record = self.state.proposal(proposal)
        assert record is not None
        score = 8000 if accept else 1000
        scores = ((score, score, score, score, score),) * len(record.segments)
        return RevealVote(proposal, scores, accept, harmful, predicted, digest("salt"))

    def vote(self, proposal: bytes, *accepts: bool, harmful: bool = False) -> None:
        """All validators vote, in their order; the proposal is decided afterwards."""
        ballots = [self.ballot(proposal, accept=accept, harmful=harmful) for accept in accepts]
        pairs = list(zip(VALIDATORS, ballots, strict=False))
        commits = [self.sign(v, CommitVote(proposal, vote_commitment(b, v.address)))[0] for v, b in pairs]
        self.block(*commits)
        self.blocks_until(lambda state: self.status(proposal) == "revealing")
        self.block(*[self.sign(v, b)[0] for v, b in pairs])
        self.blocks_until(lambda state: self.status(proposal) not in {"committing", "revealing"})

    def status(self, proposal: bytes) -> str:
        record = self.state.proposal(proposal)
        assert record is not None
        return record.status

    def round(self) -> TrainingRound:
        found = self.state.current_round()
        assert found is not None
        return found

    def in_phase(self, status: str) -> Callable[[State], bool]:
        return lambda state: (found := state.current_round()) is not None and found.status == status

    def join(self, trainers: list[SecretKey], stake: int = 100 * TOKEN) -> None:
        self.blocks_until(self.in_phase("joining"))
        number = self.round().number
        self.block(*[self.sign(trainer, JoinRound(number, stake))[0] for trainer in trainers])
        self.blocks_until(lambda state: self.round().status != "joining")

    def submission(self, trainer: SecretKey) -> RevealWeights:
        number = self.round().number
        name = trainer.address.hex()
        return RevealWeights(
            round=number,
            manifest=digest("manifest" + name),
            weights_root=digest("weights" + name),
            chunks_root=digest("chunks" + name),
            shard_count=9,
            checkpoint_root=digest("c"),
            salt=digest("s"),
        )

    def commit(self, trainers: list[SecretKey]) -> None:
        number = self.round().number
        reveals = [(t, weights_commitment(self.submission(t), t.address)) for t in trainers]
        self.block(*[self.sign(t, CommitWeights(number, commitment))[0] for t, commitment in reveals])
        self.blocks_until(lambda state: self.round().status != "training")

    def reveal(self, trainers: list[SecretKey]) -> None:
        self.block(*[self.sign(t, self.submission(t))[0] for t in trainers])
        self.blocks_until(lambda state: self.round().status != "revealing")

    def report(self, behaviours: Mapping[bytes, str], reporters: list[SecretKey] | None = None) -> None:
        """Validators report what each revealed trainer (by address) did; see `submission_report`."""
        number = self.round().number
        probes = probes_of_round(self.state, number)
        submissions = tuple(submission_report(trainer, probes, what) for trainer, what in sorted(behaviours.items()))
        is_any_available = any(submission.available for submission in submissions)
        reports = ReportScores(number, submissions, base_profile(len(probes)) if is_any_available else ())
        self.block(*[self.sign(v, reports)[0] for v in (VALIDATORS if reporters is None else reporters)])
        self.blocks_until(lambda state: self.round().status != "scoring")

    def epoch(self, behaviours: list[str]) -> TrainingRound:
        """A whole round on an accepted proposal; trainer i behaves as named. Its final record."""
        joined = TRAINERS[: len(behaviours)]
        self.join(joined)
        pairs = list(zip(joined, behaviours, strict=True))
        committed = [t for t, what in pairs if what != "uncommitted"]
        if committed:
            self.commit(committed)
        else:
            self.blocks_until(lambda state: self.round().status == "void")
            return self.round()
        revealed = [t for t, what in pairs if what not in {"uncommitted", "unrevealed"}]
        if revealed:
            self.reveal(revealed)
        else:
            self.blocks_until(lambda state: self.round().status == "void")
            return self.round()
        self.report({t.address: what for t, what in pairs if t in revealed})
        return self.round()

    def facts(self, kind: str) -> list[Receipt]:
        return [receipt for receipt in self.receipts if receipt.kind == kind]


GAINS = {"batch": 600, "heldout": 140, "rejected": 150, "general": 20}


def submission_report(trainer: bytes, probes: tuple[Probe, ...], behaviour: str) -> SubmissionReport:
    """What a validator would measure of a trainer that behaves as named."""
    if behaviour == "unavailable":
        return SubmissionReport(trainer, available=False, profile=(), sketch=())
    gains = dict(GAINS)
    sketch = [1000] * SKETCH_BUCKETS
    shift = 0
    if behaviour == "base":
        gains, sketch = dict.fromkeys(gains, 0), [0] * SKETCH_BUCKETS
    elif behaviour == "injector":
        shift, sketch = 200, [1000 + 400 * (i % 2) for i in range(SKETCH_BUCKETS)]
    elif behaviour == "other":
        shift, sketch = -250, [1000 - 600 * (i % 3 == 0) for i in range(SKETCH_BUCKETS)]
    elif behaviour == "leaker":
        gains["rejected"] = 600
    elif behaviour == "forgetter":
        gains["heldout"] = gains["general"] = -600
    elif behaviour == "noisy":
        shift = 3
    scores = tuple(ProbeScore(gains[p.pool] + shift * (-1) ** i, 40, 60) for i, p in enumerate(probes))
    return SubmissionReport(trainer, available=True, profile=scores, sketch=tuple(sketch))
