"""The light client as a pure machine: follows a primary, checks with witnesses, detects attacks.

    effects = client.apply(HeadersShown(peer, request, parts), now=now, now_ms=now_ms)

One peer is the primary: its headers are verified by skipping with bisection. What that leads to counts as trusted only
after witnesses, other peers, have been asked for the header of the same height. If one shows another header the
detector decides: it follows from what is trusted as well (an attack: nothing above the common height is trusted any
more) or it doesn't (the witness erred). A peer that is silent or late is passed over for a while and costs nothing.

`now` is in seconds of a clock that doesn't jump, for time-outs; `now_ms` is the wall clock, for trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from deepshard.consensus.light import (
    LightBlock,
    LightState,
    TrustExpired,
    WrongTrustedHeader,
    check_trust,
    decode_light_block,
    trust_header,
    trusted_state,
)
from deepshard.consensus.light_backwards import Descent
from deepshard.consensus.light_climb import Climb
from deepshard.consensus.light_detector import Detector
from deepshard.consensus.light_events import (
    AskHeaders,
    Attacked,
    Effect,
    Event,
    Expired,
    HeaderFound,
    HeadersShown,
    HeaderWanted,
    LightAttack,
    Mismatch,
    PeerAt,
    PeerGone,
    Penalise,
    SavedTrust,
    TimePassed,
    Trusted,
    Unwitnessed,
)
from deepshard.consensus.light_peers import LightPeers
from deepshard.consensus.light_trail import Point, Trail
from deepshard.errors import RemoteError
from deepshard.limits import (
    LIGHT_QUERY_TIMEOUT_S,
    LIGHT_WANTED_MAX,
    WITNESS_PATIENCE_S,
    WITNESSES_AGREE_MIN,
    WITNESSES_MAX,
)

Purpose = Literal["root", "climb", "witness", "detect", "descend"]


@dataclass(frozen=True, slots=True)
class _Question:
    peer: bytes
    purpose: Purpose
    deadline: float


@dataclass(slots=True)
class _CrossCheck:
    """A climb that is done, and what the witnesses say of its goal."""

    climb: Climb
    source: bytes
    since: float
    agreed: set[bytes] = field(default_factory=set)
    refuted: set[bytes] = field(default_factory=set)
    """They showed what doesn't hold, or couldn't show that it does."""
    forks: dict[bytes, LightBlock] = field(default_factory=dict)
    disputed: bool = False
    """A witness showed another header and then couldn't be heard to the end."""


class LightClientCore:
    """One light client. Peers are named by any bytes, public keys in practice."""

    def __init__(
        self,
        genesis: LightState,
        *,
        trusting_period_ms: int,
        salt: bytes,
        saved: SavedTrust | None = None,
        trust: tuple[int, bytes] | None = None,
        needs_witness: bool = False,
    ) -> None:
        """Begin where `saved` ended, or at the header that a person names, or at genesis.

        Args:
            genesis: what `trust_genesis` gives.
            trusting_period_ms: what `trust_lasts_ms` gives for this network.
            salt: random; decides which peers are asked first, so that nobody can choose to be.
            saved: what `saved` gave before; of another genesis it is passed over.
            trust: height and block id that a person vouches for. It wins over what was saved, unless that holds it.
            needs_witness: whether headers wait for a witness when there is no other peer to ask.
        """
        self._genesis = genesis
        self._period_ms = trusting_period_ms
        self._needs_witness = needs_witness
        self._peers = LightPeers(salt)
        self._trail = Trail(Point(genesis, None))
        self._named: tuple[int, bytes] | None = None
        self.attack: LightAttack | None = None
        if saved is not None and saved.genesis_hash == genesis.block_id:
            self._restore(saved)
        if trust is not None and (self.attack is not None or not self._holds(*trust)):
            self._named, self.attack = trust, None
        self.unwitnessed = False
        """Whether the newest trusted header is without a witness."""
        self._questions: dict[int, _Question] = {}
        self._request = 0
        self._climb: Climb | None = None
        self._check: _CrossCheck | None = None
        self._detector: tuple[bytes, Detector] | None = None
        self._descents: list[Descent] = []
        self._has_expired = False
        self._effects: list[Effect] = []

    # -- what the host may know

    @property
    def trusted(self) -> LightState:
        """The newest trusted state."""
        return self._trail.newest

    @property
    def is_waiting_for_root(self) -> bool:
        """Whether the header that a person named hasn't come yet; `trusted` is genesis until then."""
        return self._named is not None

    @property
    def primary(self) -> bytes | None:
        """The peer whose headers are followed."""
        return self._peers.primary

    def witnesses(self, now: float) -> list[bytes]:
        """Peers that a header of the primary would be compared with now."""
        primary = self._peers.primary
        return self._peers.witnesses(now, set() if primary is None else {primary})[:WITNESSES_MAX]

    def saved(self) -> SavedTrust:
        """What to keep for the next start."""
        return SavedTrust(self._genesis.block_id, self._trail.root.block, self._trail.blocks, self.attack)

    def check_trust(self, now_ms: int) -> None:
        """Check that there is something young enough to begin with.

        Raises:
            TrustExpired: there isn't.
        """
        if self._named is None and self.attack is None:
            check_trust(self.trusted, now_ms, self._period_ms)

    # -- the machine

    def apply(self, event: Event, *, now: float, now_ms: int) -> list[Effect]:
        """Take an event; what the host has to do about it, in order."""
        self._effects = []
        match event:
            case PeerAt(peer=peer, height=height):
                self._peers.claim(peer, height)
            case PeerGone(peer=peer):
                self._peers.remove(peer)
                for request in [number for number, asked in self._questions.items() if asked.peer == peer]:
                    self._give_up(request, now)
            case HeaderWanted(height=height):
                self._want(height)
            case HeadersShown():
                self._shown(event, now, now_ms)
            case TimePassed():
                pass
        for request in [number for number, asked in self._questions.items() if now >= asked.deadline]:
            self._give_up(request, now)
        if self.attack is None:
            self._advance(now, now_ms)
        return self._effects

    def _restore(self, saved: SavedTrust) -> None:
        if saved.root is not None:
            self._trail = Trail(Point(trusted_state(self._genesis.chain_id, saved.root), saved.root))
        for block in saved.blocks:
            self._trail.add(block)
        self.attack = saved.attack

    def _holds(self, height: int, block_id: bytes) -> bool:
        return any((point.height, point.state.block_id) == (height, block_id) for point in self._trail.points)

    def _advance(self, now: float, now_ms: int) -> None:
        """Ask whatever has to be asked next."""
        self._peers.elect(0 if self._named is not None else self.trusted.height, now)
        if self._named is not None:
            if not self._is_asking("root"):
                self._ask(self._peers.any_at(self._named[0], now), "root", (self._named[0], 1), now)
            return
        if self._check is None:
            self._follow(now, now_ms)
        if self._check is not None:
            self._cross_check(self._check, now, now_ms)
        if self._descents and not self._is_asking("descend"):
            self._ask(self._peers.any_at(self._descents[0].height, now), "descend", self._descents[0].wanted(), now)

    def _follow(self, now: float, now_ms: int) -> None:
        if self._is_asking("climb"):
            return
        primary = self._peers.primary
        if primary is None or self._peers.height(primary) <= self.trusted.height:
            return
        if self._climb is None:
            try:
                check_trust(self.trusted, now_ms, self._period_ms)
            except TrustExpired as error:
                self._expire(error)
                return
            self._climb = Climb(self.trusted, self._peers.height(primary))
        self._ask(primary, "climb", self._climb.wanted(), now)

    # -- answers

    def _shown(self, event: HeadersShown, now: float, now_ms: int) -> None:
        asked = self._questions.get(event.request)
        if asked is None or asked.peer != event.peer or self.attack is not None:
            return
        del self._questions[event.request]
        try:
            blocks = [decode_light_block(*parts) for parts in event.parts]
            led = self._take(asked, blocks, now, now_ms)
        except WrongTrustedHeader as error:
            self._effects.append(Mismatch(event.peer, error))
            self._drop(asked, now)
        except TrustExpired as error:
            self._drop(asked, now)
            self._expire(error)
        except RemoteError as error:
            self._effects.append(Penalise(event.peer, error))
            self._drop(asked, now, erred=True)
        else:
            if not led:
                self._drop(asked, now)

    def _take(self, asked: _Question, blocks: list[LightBlock], now: float, now_ms: int) -> bool:
        """Use an answer. Whether it led anywhere."""
        match asked.purpose:
            case "root":
                return self._take_root(asked.peer, blocks, now_ms)
            case "climb":
                climb = self._climb
                assert climb is not None  # dropped only together with its question
                led = climb.take(blocks, now_ms=now_ms, trusting_period_ms=self._period_ms)
                if climb.done:
                    self._climb, self._check = None, _CrossCheck(climb, asked.peer, now)
                return led
            case "witness":
                return self._take_witness(asked.peer, blocks)
            case "detect":
                assert self._detector is not None
                led = self._detector[1].take(blocks, now_ms=now_ms, trusting_period_ms=self._period_ms)
                self._judge()
                return led
            case "descend":
                if not self._descents[0].take([block.header for block in blocks]):
                    return False
                if self._descents[0].done:
                    self._effects.append(self._descents.pop(0).found())
                return True

    def _take_root(self, peer: bytes, blocks: list[LightBlock], now_ms: int) -> bool:
        assert self._named is not None
        height, block_id = self._named
        for block in blocks:
            if block.header.height == height:
                state = trust_header(
                    self._genesis.chain_id, block, block_id, now_ms=now_ms, trusting_period_ms=self._period_ms
                )
                self._trail, self._named = Trail(Point(state, block)), None
                self._effects.append(Trusted((block.header,), (block,), peer, ()))
                return True
        return False

    def _take_witness(self, peer: bytes, blocks: list[LightBlock]) -> bool:
        check = self._check
        assert check is not None
        tip = check.climb.tip
        for block in blocks:
            if block.header.height == tip.height:
                if block.header.block_id() == tip.block_id:
                    check.agreed.add(peer)
                else:
                    check.forks[peer] = block
                return True
        return False

    # -- witnesses

    def _cross_check(self, check: _CrossCheck, now: float, now_ms: int) -> None:
        goal = check.climb.tip.height
        self._examine(check, now, now_ms)
        if self.attack is not None or self._detector is not None:
            return
        asked = {question.peer for question in self._questions.values() if question.purpose == "witness"}
        free = self._peers.witnesses(now, {check.source} | asked | check.agreed | check.refuted)
        room = WITNESSES_MAX - len(asked) - len(check.agreed)
        ready = [peer for peer in free if self._peers.height(peer) >= goal]
        for peer in ready[:room]:
            self._ask(peer, "witness", (goal, 1), now, WITNESS_PATIENCE_S)
        late = [peer for peer in free if self._peers.height(peer) < goal][: max(0, room - len(ready))]
        if asked or ready[:room]:
            return
        if late and now < check.since + WITNESS_PATIENCE_S:
            return
        for peer in late:
            self._peers.pass_over(peer, now)
        self._decide(check, now)

    def _examine(self, check: _CrossCheck, now: float, now_ms: int) -> None:
        """Let the detector look at forks, one after the other."""
        while check.forks and self._detector is None and self.attack is None:
            peer, fork = check.forks.popitem()
            trace = [Point(trusted_state(self._genesis.chain_id, block), block) for block in check.climb.trace]
            detector = Detector((*self._trail.points, *trace), fork)
            self._detector = peer, detector
            try:
                detector.settle(now_ms=now_ms, trusting_period_ms=self._period_ms)
            except TrustExpired:
                self._drop_fork(peer, now, erred=False)
            except RemoteError as error:
                self._effects.append(Penalise(peer, error))
                self._drop_fork(peer, now, erred=True)
            self._judge()
        if self._detector is not None and self.attack is None and not self._is_asking("detect"):
            peer, detector = self._detector
            self._ask(peer, "detect", detector.wanted(), now)

    def _judge(self) -> None:
        """Declare the attack that the detector found, if it did."""
        if self._detector is None or self._detector[1].attack is None:
            return
        witness, self.attack = self._detector[0], self._detector[1].attack
        common = self.attack.common_height
        self._trail.roll_back(common)
        for block in [] if self._check is None else self._check.climb.trace:
            if block.header.height <= common:
                self._trail.add(block)  # the witness has confirmed it
        self._questions.clear()
        self._climb = self._check = self._detector = None
        self._descents.clear()
        self._effects.append(Attacked(self.attack, witness))

    def _decide(self, check: _CrossCheck, now: float) -> None:
        """Every witness that there is has been heard."""
        if len(check.agreed) >= WITNESSES_AGREE_MIN:
            self._accept(check)
        elif check.disputed:
            self._check = None  # nobody confirms it and somebody contradicts: begin again with another primary
            if self._peers.primary is not None:
                self._peers.pass_over(self._peers.primary, now)
        elif now >= check.since + WITNESS_PATIENCE_S or self.unwitnessed:
            if not self.unwitnessed:
                self.unwitnessed = True
                self._effects.append(Unwitnessed(check.climb.tip.height))
            if not self._needs_witness:
                self._accept(check)

    def _accept(self, check: _CrossCheck) -> None:
        for block in check.climb.trace:
            self._trail.add(block)
        self._check = None
        self._peers.praise(check.source)
        self.unwitnessed = not check.agreed
        trace = tuple(reversed(check.climb.trace))
        linked = check.climb.linked()
        others = [block.header for block in trace[1:] if block.header not in linked]
        headers = (trace[0].header, *linked, *others)
        self._effects.append(Trusted(headers, trace, check.source, tuple(sorted(check.agreed))))

    # -- asking

    def _is_asking(self, purpose: Purpose) -> bool:
        return any(question.purpose == purpose for question in self._questions.values())

    def _ask(
        self,
        peer: bytes | None,
        purpose: Purpose,
        wanted: tuple[int, int],
        now: float,
        timeout_s: float = LIGHT_QUERY_TIMEOUT_S,
    ) -> None:
        if peer is None:
            return
        self._request += 1
        self._questions[self._request] = _Question(peer, purpose, now + timeout_s)
        self._effects.append(AskHeaders(peer, self._request, *wanted))

    def _give_up(self, request: int, now: float) -> None:
        asked = self._questions.pop(request, None)
        if asked is not None:
            self._drop(asked, now)

    def _drop(self, asked: _Question, now: float, *, erred: bool = False) -> None:
        """Go on without this peer's answer; it isn't asked for a while."""
        self._peers.pass_over(asked.peer, now)
        match asked.purpose:
            case "climb":
                self._climb = None
            case "detect":
                self._drop_fork(asked.peer, now, erred=erred)
            case _:
                pass

    def _drop_fork(self, peer: bytes, now: float, *, erred: bool) -> None:
        """The detector's question ended without an attack."""
        self._detector = None
        self._peers.pass_over(peer, now)
        if self._check is not None:
            self._check.refuted.add(peer)
            self._check.disputed |= not erred

    def _expire(self, error: TrustExpired) -> None:
        if not self._has_expired:
            self._has_expired = True
            self._effects.append(Expired(error))

    def _want(self, height: int) -> None:
        above = self._trail.above(height)
        descent = None if above is None or above.state.header is None else Descent(above.state.header, height)
        if descent is None or descent.too_far or len(self._descents) >= LIGHT_WANTED_MAX or self.attack is not None:
            self._effects.append(HeaderFound(height, None))
        else:
            self._descents.append(descent)
