"""Who holds what, how safe each shard is, and whether what holders say of themselves fits what is seen of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from deepshard.gossip.subnets import subnet_of
from deepshard.ledger.state import State
from deepshard.ledger.storage import candidates_of
from deepshard.net.types import NetworkPort
from deepshard.placement import Candidate
from deepshard.services.attendance import Attendance
from deepshard.services.placing import Placements
from deepshard.services.view import ChainView
from deepshard.services.weights import WeightsRegistry
from deepshard.shards.layout import shard_name
from deepshard.shards.manifest import Manifest
from deepshard.shards.repair import failures_to_lose

Safety = Literal["safe", "thin", "endangered", "lost"]


@dataclass(frozen=True, slots=True)
class MappedShard:
    """A shard of the newest version.

    Attributes:
        decoded_bytes: its size; `chunk_bytes` is what each holder keeps for this version, without bases of deltas.
        holders: addresses that it falls to, best first.
        copies: how many of them are present.
        domains: failures that take all of them, if all were present.
        failures_to_lose: failures of a holder, an operator or a network that take those who are present.
        safety: `lost` without copies, `endangered` if one failure takes all, `thin` if copies are missing.
    """

    number: int
    name: str
    decoded_bytes: int
    chunk_bytes: int
    holders: tuple[bytes, ...]
    copies: int
    domains: int
    failures_to_lose: int
    safety: Safety


@dataclass(frozen=True, slots=True)
class MappedHolder:
    """A candidate.

    Attributes:
        capacity: what it wants to hold at most in bytes, None if it doesn't say.
        seen_network: of the address that this node has a link with, unless that is private.
        present: whether it isn't away.
        chunk_bytes: of all shards that fall to it; a chunk that several of them have counts once.
    """

    address: bytes
    stake: int
    weight: int
    capacity: int | None
    operator: str
    network: str
    seen_network: str | None
    present: bool
    shards: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True)
class ShardMap:
    """The map of the newest version, as the state has it and as this node sees its holders.

    `unsaid` are holders that this node sees in one network, though they don't all say that they share one.
    """

    version: int
    manifest: bytes
    replication: int
    shards: tuple[MappedShard, ...]
    holders: tuple[MappedHolder, ...]
    unsaid: tuple[tuple[str, tuple[bytes, ...]], ...]


class ShardMapper:
    """Draws the map when asked."""

    def __init__(
        self,
        *,
        view: ChainView,
        registry: WeightsRegistry,
        placements: Placements,
        attendance: Attendance,
        network: NetworkPort,
        address: bytes,
    ) -> None:
        """Set up; `address` is this node's."""
        self._view = view
        self._registry = registry
        self._placements = placements
        self._attendance = attendance
        self._network = network
        self._address = address

    async def draw(self) -> ShardMap:
        """The map now.

        Raises:
            LocalError: the manifest isn't here, and nobody gave it.
        """
        state = self._view.state
        model, replication = state.current_model(), state.params().replication
        candidates = candidates_of(state)
        peers = {peer.address: peer for peer in self._network.peers()}
        away = self._attendance.away(self._view.height, {each.address for each in candidates}, {self._address, *peers})
        lineage = await self._registry.lineage(model.manifest, version=model.version)
        manifest = lineage.newest
        placed = await self._placements.of(model.manifest, manifest, candidates, replication)
        known = {each.address: each for each in candidates}
        enough = min(replication, sum(each.weight > 0 for each in candidates))
        shards = []
        for number, (entry, held_by) in enumerate(zip(manifest.shards, placed, strict=True)):
            copies = [known[address] for address in held_by if address not in away]
            failures = failures_to_lose(copies)
            shards.append(
                MappedShard(
                    number=number,
                    name=shard_name(manifest.tensors, entry.slices),
                    decoded_bytes=entry.decoded_bytes,
                    chunk_bytes=entry.chunk_bytes,
                    holders=held_by,
                    copies=len(copies),
                    domains=failures_to_lose([known[address] for address in held_by]),
                    failures_to_lose=failures,
                    safety=_safety(len(copies), failures, enough),
                )
            )
        seen = {
            each.address: subnet_of(peers[each.address].remote.rpartition(":")[0].strip("[]"))
            for each in candidates
            if each.address in peers
        }
        holders = tuple(_holder(state, each, shards, manifest, seen.get(each.address), away) for each in candidates)
        return ShardMap(model.version, model.manifest, replication, tuple(shards), holders, _unsaid(holders))


def _safety(copies: int, failures: int, enough: int) -> Safety:
    if copies == 0:
        return "lost"
    if failures == 1:
        return "endangered"
    return "thin" if copies < enough else "safe"


def _holder(
    state: State,
    candidate: Candidate,
    shards: list[MappedShard],
    manifest: Manifest,
    seen: str | None,
    away: frozenset[bytes],
) -> MappedHolder:
    offer = state.storage_offer(candidate.address)
    stake = next(each.stake for each in state.active().validators if each.address == candidate.address)
    mine = [shard for shard in shards if candidate.address in shard.holders]
    return MappedHolder(
        address=candidate.address,
        stake=stake,
        weight=candidate.weight,
        capacity=None if offer is None else offer.capacity,
        operator=candidate.operator,
        network=candidate.network,
        seen_network=seen,
        present=candidate.address not in away,
        shards=len(mine),
        chunk_bytes=sum({manifest.shards[each.number].chunk: each.chunk_bytes for each in mine}.values()),
    )


def _unsaid(holders: tuple[MappedHolder, ...]) -> tuple[tuple[str, tuple[bytes, ...]], ...]:
    together: dict[str, list[MappedHolder]] = {}
    for holder in holders:
        if holder.seen_network is not None:
            together.setdefault(holder.seen_network, []).append(holder)
    return tuple(
        (network, tuple(each.address for each in members))
        for network, members in sorted(together.items())
        if len(members) > 1
        and (len({each.network for each in members}) > 1 or not members[0].network)
        and (len({each.operator for each in members}) > 1 or not members[0].operator)
    )
