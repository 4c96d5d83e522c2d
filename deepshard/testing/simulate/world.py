"""A run: the nodes of a plan in one network, its faults at their times, and the judgement at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Final

import trio

from deepshard.chunk_tree import NO_CHUNKS
from deepshard.consensus import core
from deepshard.consensus.types import Step
from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import genesis_state
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis, GenesisAccount, GenesisValidator
from deepshard.ledger.transactions import Bond, Transfer, Unbond
from deepshard.primitives import UNITS_PER_TOKEN, content_digest
from deepshard.services.catching_up import SnapshotPolicy
from deepshard.services.executor import validators_of
from deepshard.services.pacing import Pacing
from deepshard.testing.builders import SMALL_PARAMS
from deepshard.testing.fault_disk import Crash
from deepshard.testing.simulate.byzantine import Conspiracy, Traitor
from deepshard.testing.simulate.log import EventLog
from deepshard.testing.simulate.network import Network, Port
from deepshard.testing.simulate.node import Node, describe
from deepshard.testing.simulate.oracle import CHAIN_ID, Oracle
from deepshard.testing.simulate.plan import BYZANTINE_KINDS, Fault, Plan, chance, meets_second_twin
from deepshard.testing.simulate.reader import Reader

ONION_LAYERS: Final = 1200
LIVENESS_ROUNDS: Final = 10
"""After the last fault, every honest node decides within so many rounds."""
SETTLE_S: Final = 40.0
"""Virtual seconds on top: for repeating votes, passing over slow peers and fetching blocks."""
EVIDENCE_S: Final = 120.0
"""Then what is held of evidence is on chain: a wallet may first have to give up another transaction, after 60 s."""
_DISK_KINDS = ("crash", "restart", "bit-rot", "amnesia")
_LINK_KINDS = ("delay", "loss", "reorder", "duplicate", "partition")


@cache
def _key(number: int) -> SecretKey:
    return SecretKey(content_digest(f"simulated node {number}".encode()))


@cache
def onion_of(number: int) -> OnionChain:
    """Hash onion of a node, made once for all runs."""
    return OnionChain(_key(number).seed, ONION_LAYERS)


def genesis_of(plan: Plan) -> Genesis:
    """The genesis of a plan's network: every node has an account, the first have bonds."""
    in_order = sorted(range(plan.nodes), key=lambda number: _key(number).address)
    validators = [
        GenesisValidator(_key(n).public, plan.stakes[n] * SMALL_PARAMS.validator_stake_min, onion_of(n).tip)
        for n in in_order
        if n < len(plan.stakes)
    ]
    return Genesis(
        chain_id=CHAIN_ID,
        time_ms=1_700_000_000_000,
        params=SMALL_PARAMS,
        validators=tuple(validators),
        accounts=tuple(GenesisAccount(_key(n).address, 1000 * UNITS_PER_TOKEN) for n in in_order),
        manifest=content_digest(b"manifest"),
        weights_root=content_digest(b"weights"),
        chunks_root=NO_CHUNKS,
        shard_count=0,
        heldout=(content_digest(b"h"),),
        general=(content_digest(b"g"),),
        canaries=(content_digest(b"c"),),
    )


class World:
    """Everything of one run; satisfies `node.Surroundings`."""

    nursery: trio.Nursery

    def __init__(self, plan: Plan, log: EventLog) -> None:
        self.plan, self.log = plan, log
        self.genesis = genesis_of(plan)
        self.network = Network(plan.seed, plan.latency_s, log)
        self.pacing = Pacing(
            block_interval_s=min(0.3, plan.interval_s),
            empty_block_interval_s=plan.interval_s,
            propose_timeout_s=plan.propose_s,
            vote_timeout_s=plan.vote_s,
        )
        self.snapshots = SnapshotPolicy(gap_blocks=plan.snapshot_gap)
        self.core_states: dict[str, core.State] = {}
        self._over = trio.Event()
        self._progress = trio.Event()
        honest = [number for number in range(plan.nodes) if number not in plan.byzantine]
        self.oracle = Oracle(
            log,
            keys={_key(number).address: _key(number).public for number in range(plan.nodes)},
            honest=frozenset(_key(number).address for number in honest),
            beyond=plan.beyond,
            genesis=genesis_state(self.genesis),
            stop=self._over.set,
        )
        self._conspiracy = Conspiracy(CHAIN_ID)
        self._traitors: dict[int, Traitor] = {}
        self._twins = {n for fault in plan.faults if fault.kind == "twins" for n in fault.nodes if n in plan.byzantine}
        self._broken: list[Fault] = []
        self._dialled = self._draw_links()
        self.received: dict[str, Counter[str]] = {}
        self.received_bytes: dict[str, Counter[str]] = {}
        self.network.on_penalty = self._penalised
        self.nodes = self._make_nodes()
        self._reader: Reader | None = None
        if plan.light:
            self._reader = Reader(self.genesis, self.network, self.oracle, plan.nodes, _key(plan.nodes))

    def _make_nodes(self) -> list[Node]:
        plan = self.plan
        disks = {n for fault in plan.faults if fault.kind in _DISK_KINDS for n in fault.nodes}
        nodes = []
        for number in range(plan.nodes):
            honest = number not in plan.byzantine
            names = (f"n{number}", f"n{number}'") if number in self._twins else (f"n{number}",)
            for name in names:
                node = Node(self, name, number, _key(number), onion_of(number), honest=honest, disk=number in disks)
                if not honest:
                    rng = chance(f"traitor {plan.seed} {name}")
                    traitor = self._traitors.setdefault(number, Traitor(node.key, self._conspiracy, self.log, rng))
                    node.rewrite = traitor.rewrite  # type: ignore[assignment]
                nodes.append(node)
        if self._twins:
            self.log.seen["twins"] += 1
        return nodes

    def _draw_links(self) -> set[tuple[int, int]] | None:
        """Pairs that dial each other; None: all do."""
        if not self.plan.dials:
            return None
        rng = chance(f"dials {self.plan.seed}")
        pairs: set[tuple[int, int]] = set()
        for number in range(self.plan.nodes):
            others = [other for other in range(self.plan.nodes) if other != number]
            pairs.update((min(number, o), max(number, o)) for o in rng.sample(others, self.plan.dials))
        return pairs

    # -- as nodes see it ----------------------------------------------------------------------------------------------

    def joined(self, node: Node) -> None:
        """A node is up: link it to those that it should know."""
        for other in self.nodes:
            self._link(node, other)
        self._link_reader(node)

    def moved(self) -> None:
        """A node has decided something."""
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    def _link(self, one: Node, other: Node) -> None:
        if one.port is None or other.port is None or one.number == other.number:
            return
        pair = (min(one.number, other.number), max(one.number, other.number))
        if self._dialled is not None and pair not in self._dialled:
            return
        if any(a in fault.nodes and b in fault.others for fault in self._broken for a, b in (pair, pair[::-1])):
            return
        if self._meets(one, other.number) and self._meets(other, one.number):
            self.network.link(one.port, other.port)

    def _link_reader(self, node: Node) -> None:
        if self._reader is not None and node.port is not None and self._meets(node, self.plan.nodes):
            self.network.link(self._reader.port, node.port)

    def _meets(self, node: Node, other: int) -> bool:
        """Whether this instance of a node, of two that are twins, is the one that another number talks to."""
        is_twin = node.name.endswith("'")
        has_twin = node.number in self._twins
        return not has_twin or meets_second_twin(self.plan.seed, other) == is_twin

    def _penalised(self, judge: Port, culprit: Port, error: RemoteError) -> None:
        is_honest = judge.number not in self.plan.byzantine and culprit.number not in self.plan.byzantine
        if is_honest and not self.oracle.forked:
            self.oracle.fail(f"honest {judge.name} blames honest {culprit.name}: {error}")

    def _reader_ended(self, error: Exception) -> None:
        if not self.plan.beyond:
            self.oracle.fail(f"the light client ended with {describe(error)}")

    # -- the run ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the plan to its end or to the first violation."""
        async with trio.open_nursery() as self.nursery:
            self.nursery.start_soon(self.network.run)
            self.nursery.start_soon(self._relink)
            late = {number for fault in self.plan.faults if fault.kind == "late" for number in fault.nodes}
            for node in self.nodes:
                if node.number not in late:
                    node.boot()
            if self._reader is not None:
                self.nursery.start_soon(self._reader.run, self._reader_ended)
            for fault in self.plan.faults:
                self.nursery.start_soon(self._act, fault)
            self.nursery.start_soon(self._work)
            await self._wait(self.plan.blocks, self.plan.seconds, everyone=False)
            if self.plan.heals and self.oracle.violation is None:
                await self._heal()
            if self.oracle.violation is None:
                self.oracle.check_blame()
            for node in self.nodes:
                self._note_traffic(node)
            self.nursery.cancel_scope.cancel()

    async def _wait(self, height: int, seconds: float, *, everyone: bool) -> bool:
        """Wait until honest nodes have decided a height, for so long at most; whether they have."""
        with trio.move_on_after(seconds):
            while not self._over.is_set() and not self._reached(height, everyone=everyone):
                await self._next_event()
        return self._reached(height, everyone=everyone)

    async def _next_event(self) -> None:
        async def wait(event: trio.Event, scope: trio.CancelScope) -> None:
            await event.wait()
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait, self._over, nursery.cancel_scope)
            nursery.start_soon(wait, self._progress, nursery.cancel_scope)

    def _reached(self, height: int, *, everyone: bool) -> bool:
        heights = [node.height for node in self.nodes if node.honest and node.refused is None]
        return bool(heights) and (min if everyone else max)(heights) >= height

    async def _relink(self) -> None:
        """Links that were closed are dialled again."""
        while True:
            await trio.sleep(1.0)
            for place, one in enumerate(self.nodes):
                for other in self.nodes[place + 1 :]:
                    self._link(one, other)
                self._link_reader(one)

    async def _work(self) -> None:
        for work in self.plan.work:
            await trio.sleep_until(work.at)
            node, amount = self._instance(work.node), work.tokens * UNITS_PER_TOKEN
            match work.action:
                case "transfer":
                    node.submit(Transfer(_key(work.to).address, amount))
                case "bond":
                    node.submit(Bond(amount, node.onion_tip))
                case "unbond":
                    node.submit(Unbond(amount))

    def _instance(self, number: int) -> Node:
        return next(node for node in self.nodes if node.number == number)

    # -- faults -------------------------------------------------------------------------------------------------------

    async def _act(self, fault: Fault) -> None:
        await trio.sleep_until(fault.at)
        self.log.add("fault", "-", kind=fault.kind, nodes=" ".join(map(str, fault.nodes)))
        self._begin(fault)
        if fault.kind in {"crash", "restart", "bit-rot", "amnesia"}:
            for number in fault.nodes:
                for node in self.nodes:
                    if node.number == number:
                        self.nursery.start_soon(self._take_down, node, fault)
            return
        if fault.kind == "late":
            await self._wait(int(fault.amount), float("inf"), everyone=False)
        else:
            await trio.sleep_until(fault.until)
        self._end(fault)

    def _begin(self, fault: Fault) -> None:
        if fault.kind in _LINK_KINDS:
            self.network.begin(fault)
        elif fault.kind in BYZANTINE_KINDS:
            for number in fault.nodes:
                if number in self._traitors:
                    self._traitors[number].active.append(fault)
        match fault.kind:
            case "link-break":
                self.log.seen["link-break"] += 1
                self._break(fault)
            case "clock":
                self.log.seen["clock"] += 1
                for node in self._those(fault):
                    node.clock = (fault.amount, fault.amount / 1000)
            case "slow":
                for number in fault.nodes:
                    self.network.slow[number] = fault.amount
            case _:
                pass

    def _end(self, fault: Fault) -> None:
        self.network.end(fault)
        for traitor in self._traitors.values():
            if fault in traitor.active:
                traitor.active.remove(fault)
        match fault.kind:
            case "late":
                self.log.seen["late"] += 1
                for node in self._those(fault):
                    node.boot()
            case "link-break":
                if fault in self._broken:
                    self._broken.remove(fault)
            case "clock":
                for node in self._those(fault):
                    node.clock = (0.0, 0.0)
            case "slow":
                for number in fault.nodes:
                    self.network.slow.pop(number, None)
            case _:
                pass

    def _break(self, fault: Fault) -> None:
        """Close the links between these nodes; they stay closed until the fault ends."""
        self._broken.append(fault)
        for one in self.nodes:
            for other in self.nodes:
                if one.number in fault.nodes and other.number in fault.others and one.port and other.port:
                    self.network.cut(one.port, other.port, "connection reset")

    def _those(self, fault: Fault) -> list[Node]:
        return [node for node in self.nodes if node.number in fault.nodes]

    async def _take_down(self, node: Node, fault: Fault) -> None:
        """Crash or restart a node; it comes back when the fault ends."""
        down_s = min(3.0, fault.until - fault.at)
        if fault.kind == "amnesia" and node.honest:
            return
        if node.refused is not None:
            return
        mode = Crash(fault.mode) if fault.kind == "crash" else None
        if mode is not None and node.is_up:
            node.lose_power_after(int(fault.amount), mode)
            with trio.move_on_after(2.0):
                await node.wait_down()
        self._note_traffic(node)
        await node.kill(mode)
        self.log.seen[fault.kind] += 1
        if mode is not None:
            self.log.seen[f"crash.{mode.value}"] += 1
        await trio.sleep(down_s)
        if node.is_up:
            return
        if fault.kind == "bit-rot":
            node.rot(fault.mode, int(fault.amount))
        if fault.kind == "amnesia":
            node.wipe(keep_guard=False)
        node.boot()

    # -- liveness -----------------------------------------------------------------------------------------------------

    async def _heal(self) -> None:
        """Stop all faults; then every honest node must decide within `LIVENESS_ROUNDS` rounds."""
        for node in self.nodes:
            node.clock = (0.0, 0.0)
        self.network.clear()
        self._broken.clear()
        for traitor in self._traitors.values():
            traitor.active.clear()
        for node in self.nodes:
            node.boot()
        for place, one in enumerate(self.nodes):
            for other in self.nodes[place + 1 :]:
                self._link(one, other)
        self.log.add("healed", "-")
        honest = [node for node in self.nodes if node.honest and node.refused is None]
        if not self._has_quorum(honest):
            self.log.seen["liveness.no-quorum"] += 1
            return
        round_ = self.log.peak_round = max((state.round for state in self.core_states.values()), default=0)
        allowed = SETTLE_S + sum(
            self.pacing.timeout_s(step, round_ + ahead) for ahead in range(LIVENESS_ROUNDS) for step in Step
        )
        height = max(node.height for node in honest) + 2
        if not await self._wait(height, allowed, everyone=True) and self.oracle.violation is None:
            heights = ", ".join(f"{node.name} {node.height}" for node in honest)
            self.oracle.fail(f"faults stopped, but not all reached height {height} in {allowed:.0f} s: {heights}")
        if self.log.peak_round > round_ + LIVENESS_ROUNDS:
            self.oracle.fail(f"faults stopped in round {round_}, but round {self.log.peak_round} was needed")
        self.log.seen["liveness.checked"] += 1
        await self._settle_evidence(honest)

    async def _settle_evidence(self, honest: Sequence[Node]) -> None:
        """What honest validators hold comes on chain: whoever contradicted itself is convicted."""
        if self.oracle.violation is not None or not any(node.unsettled for node in honest):
            return
        self.log.seen["evidence.awaited"] += 1
        with trio.move_on_after(EVIDENCE_S):
            while not self._over.is_set() and any(node.unsettled for node in honest):
                await self._next_event()
        for node in honest:
            for one in node.unsettled:
                self.oracle.fail(
                    f"{node.name} holds evidence of {one.offence.kind} at height {one.offence.height} since height "
                    f"{one.since_height}, and at height {node.height} nobody is convicted"
                )

    def _has_quorum(self, honest: Sequence[Node]) -> bool:
        newest = max(honest, key=lambda node: node.height, default=None)
        if newest is None or newest.view is None:
            return False
        validators = validators_of(newest.view.state)
        # Who lost its chain, but not its guard, can't vote at heights that it has voted beyond: it may be needed there.
        power = sum(validators.power_of(node.key.address) for node in honest if not node.rotted)
        return 3 * power > 2 * validators.total_power

    # -- figures ------------------------------------------------------------------------------------------------------

    def _note_traffic(self, node: Node) -> None:
        if node.port is not None:
            self.received.setdefault(node.name, Counter()).update(node.port.received)
            self.received_bytes.setdefault(node.name, Counter()).update(node.port.received_bytes)
            node.port.received, node.port.received_bytes = Counter(), Counter()
