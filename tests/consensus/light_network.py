"""Peers of a light client core in virtual time: honest ones, liars with forks of their own, slow and silent ones."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import count

from consensus_network import secret_keys

from deepshard.ballots import VOTE_TAG, VoteKind, vote_sign_bytes
from deepshard.consensus.blocks import build_header, genesis_tip, tip_of
from deepshard.consensus.light import LightBlock, LightState, trust_genesis
from deepshard.consensus.light_client import LightClientCore
from deepshard.consensus.light_events import (
    AskHeaders,
    Attacked,
    Effect,
    Event,
    HeadersShown,
    HeaderWanted,
    PeerAt,
    PeerGone,
    Penalise,
    SavedTrust,
    TimePassed,
    Trusted,
)
from deepshard.consensus.types import CommitCertificate, CommitSignature, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.primitives import content_digest, tagged_hash

CHAIN = "light-network"
GENESIS = content_digest(b"genesis")
START_MS = 1_000_000
BLOCK_MS = 1000
PERIOD_MS = 3_600_000
LENGTH = 200
"""Of the chains below."""
KEYS = secret_keys(40)
KEY_BY_ADDRESS = {key.address: key for key in KEYS}
Chain = Mapping[int, LightBlock]


def members(places: Iterable[int]) -> ValidatorSet:
    """Validators of equal power, by their place among all keys."""
    return ValidatorSet.of((KEYS[place].public, 10) for place in places)


def sign(header: Header, signers: Iterable[bytes]) -> CommitCertificate:
    """Precommits of these addresses."""
    block_id = header.block_id()
    message = vote_sign_bytes(CHAIN, VoteKind.PRECOMMIT, header.height, 0, block_id)
    signatures = (CommitSignature(address, KEY_BY_ADDRESS[address].sign(VOTE_TAG, message)) for address in signers)
    return CommitCertificate(header.height, 0, block_id, tuple(sorted(signatures, key=lambda entry: entry.validator)))


def quorum(validators: ValidatorSet) -> list[bytes]:
    """The fewest validators that decide, of equal power."""
    members_ = [entry.address for entry in validators.validators]
    return members_[: 2 * len(members_) // 3 + 1]


def grow(sets: Mapping[int, ValidatorSet], length: int, *, below: Chain | None = None, mark: str = "true") -> Chain:
    """A chain whose heights have these validators; on top of `below` if given, where `mark` makes another history."""
    blocks = dict(below or {})
    top = max(blocks, default=0)
    tip = tip_of(blocks[top].header, sets[top]) if blocks else genesis_tip(GENESIS, START_MS, sets[1])
    last = blocks[top].certificate if blocks else None
    for height in range(top + 1, length + 1):
        header = build_header(
            chain_id=CHAIN,
            parent=tip,
            now_ms=START_MS + BLOCK_MS * height,
            proposer=sets[height].validators[0].address,
            last_commit=last,
            transactions=(),
            state_root=content_digest(f"{mark} {height}".encode()),
            receipts_root=content_digest(b"receipts"),
            validators=sets[height],
            next_validators_hash=sets[height + 1].hash(),
            manifest=content_digest(b"manifest"),
            onion_preimage=content_digest(b"onion"),
        )
        last = sign(header, quorum(sets[height]))
        blocks[height] = LightBlock(header, last, sets[height])
        tip = tip_of(header, sets[height])
    return blocks


@dataclass
class Peer:
    """What a peer shows: its chain up to a claimed height, after a delay in seconds (None: never)."""

    chain: Chain
    height: int
    delay_s: float | None = 0.05
    headers_max: int = 64
    """In one answer."""


@dataclass
class LightNetwork:
    """A core and its peers."""

    peers: dict[bytes, Peer]
    sets: Mapping[int, ValidatorSet]
    salt: bytes = b""
    trust: tuple[int, bytes] | None = None
    saved: SavedTrust | None = None
    needs_witness: bool = False
    period_ms: int = PERIOD_MS
    start_ms: int = 0
    effects: list[Effect] = field(default_factory=list)
    asked: list[tuple[bytes, int, int]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        self.genesis: LightState = trust_genesis(CHAIN, GENESIS, START_MS, self.sets[1])
        self.core = LightClientCore(
            self.genesis,
            trusting_period_ms=self.period_ms,
            salt=self.salt,
            saved=self.saved,
            trust=self.trust,
            needs_witness=self.needs_witness,
        )
        if not self.start_ms:
            newest = max(max(peer.chain, default=0) for peer in self.peers.values())
            self.start_ms = START_MS + BLOCK_MS * newest
        self._agenda: list[tuple[float, int, Event]] = []
        self._count = count()
        for name in sorted(self.peers, key=lambda name: tagged_hash("order", self.salt, name)):
            self.later(0.0, PeerAt(name, self.peers[name].height))

    def later(self, delay_s: float, event: Event) -> None:
        """Something will happen."""
        heapq.heappush(self._agenda, (self.now + delay_s, next(self._count), event))

    def reach(self, name: bytes, height: int) -> None:
        """A peer claims a height now."""
        self.peers[name].height = height
        self.later(0.0, PeerAt(name, height))

    def leave(self, name: bytes) -> None:
        """A peer's link ends."""
        del self.peers[name]
        self.later(0.0, PeerGone(name))

    def want(self, height: int) -> None:
        """Ask for an old header."""
        self.later(0.0, HeaderWanted(height))

    def run(self, for_s: float) -> None:
        """Let time pass, with an event each half second at least."""
        end = self.now + for_s
        for tick in range(1, int(for_s * 2) + 1):
            self.later(tick / 2, TimePassed())
        while self._agenda and self._agenda[0][0] <= end:
            self.now, _, event = heapq.heappop(self._agenda)
            for effect in self.core.apply(event, now=self.now, now_ms=self.start_ms + int(self.now * 1000)):
                self.effects.append(effect)
                if isinstance(effect, AskHeaders):
                    self._answer(effect)
        self.now = end

    def _answer(self, ask: AskHeaders) -> None:
        self.asked.append((ask.peer, ask.from_height, ask.count))
        peer = self.peers.get(ask.peer)
        if peer is None or peer.delay_s is None:
            return
        heights = range(ask.from_height, min(ask.from_height + ask.count, peer.height + 1))
        blocks = [peer.chain[height] for height in heights if height in peer.chain]
        blocks = blocks[: peer.headers_max]
        parts = tuple((encode(block.header), encode(block.certificate), encode(block.validators)) for block in blocks)
        self.later(peer.delay_s, HeadersShown(ask.peer, ask.request, parts))

    # -- what came of it

    @property
    def trusted(self) -> list[Header]:
        """Headers in the order in which they came to be trusted, the newest of each step last."""
        steps = [effect.headers for effect in self.effects if isinstance(effect, Trusted)]
        return [header for headers in steps for header in reversed(headers)]

    @property
    def penalised(self) -> list[bytes]:
        """Peers that were penalised."""
        return [effect.peer for effect in self.effects if isinstance(effect, Penalise)]

    @property
    def attacks(self) -> list[Attacked]:
        """Attacks that were declared."""
        return [effect for effect in self.effects if isinstance(effect, Attacked)]


@cache
def sets(seed: int, length: int = LENGTH) -> Mapping[int, ValidatorSet]:
    """Four to seven validators; about every fifth height one comes or goes."""
    rng = random.Random(seed)
    places = set(range(rng.randint(4, 7)))
    found = {}
    for height in range(1, length + 2):
        found[height] = members(places)
        if rng.random() < 0.2:
            if len(places) > 4:
                places.remove(rng.choice(sorted(places)))
            if len(places) < 7:
                places.add(rng.choice(sorted(set(range(30)) - places)))
    return found


@cache
def truth(seed: int, length: int = LENGTH) -> Chain:
    return grow(sets(seed, length), length)


def honest(seed: int, count: int, height: int = LENGTH) -> dict[bytes, Peer]:
    return {b"honest%d" % number: Peer(truth(seed), height) for number in range(count)}
