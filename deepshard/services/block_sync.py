"""Catching up: who is how far, asking one peer at a time for blocks, and serving those who ask."""

from __future__ import annotations

from collections import Counter

import structlog

from deepshard.disk.chain import ChainStore
from deepshard.limits import BODY_BYTES_MAX, PEERS_REMEMBERED_MAX, SYNC_BLOCKS_MAX
from deepshard.net.types import NetworkPort, PeerInfo
from deepshard.wire.messages import Blocks, BlocksRequest

_log = structlog.get_logger(__name__)
PATIENCE_TICKS = 16
"""Ticks after which a peer that was asked for blocks counts as slow, and another is asked."""


class BlockSync:
    """Heights that peers claim, and the one request that is under way.

    A claim only decides whom to ask; what comes back is believed by its commit certificates. A peer that answers with
    nothing, or not at all, is not asked again before it claims anew.
    """

    def __init__(self, network: NetworkPort, store: ChainStore) -> None:
        self._network = network
        self._store = store
        self._heights: dict[bytes, int] = {}
        self._disappointments: Counter[bytes] = Counter()
        self._cooling: set[bytes] = set()
        """Peers that disappointed since the last tick; a liar's next claim waits, or it could keep us asking."""
        self._request = 0
        self._asked: bytes | None = None
        self._waited_ticks = 0

    def note(self, peer: bytes, height: int) -> None:
        """A peer says how far it is."""
        self._heights[peer] = height

    def forget(self, peer: bytes) -> None:
        """A peer is gone, or was of no use."""
        self._heights.pop(peer, None)
        if self._asked == peer:
            self._asked = None

    def is_behind(self, height: int) -> bool:
        """Whether some peer claims to be above `height`."""
        return any(claimed > height for claimed in self._heights.values())

    def is_level_with(self, peer: bytes, height: int) -> bool:
        """Whether a peer that has just sent us blocks claims no more than we have now."""
        return self._heights.get(peer, height) <= height

    def tick(self) -> None:
        """Time passes; a slow peer is given up."""
        self._cooling.clear()
        if self._asked is None:
            return
        self._waited_ticks += 1
        if self._waited_ticks > PATIENCE_TICKS:
            _log.info("sync.slow_peer", peer=self._asked.hex())
            self._disappoint(self._asked)

    async def ask(self, height: int) -> None:
        """Ask for the blocks above `height`, unless a request is under way.

        Whoever has disappointed least is asked, and of those the one that claims most: a liar gets one turn in many.
        """
        ahead = {
            peer: claimed for peer, claimed in self._heights.items() if claimed > height and peer not in self._cooling
        }
        if self._asked is not None or not ahead:
            return
        peer = min(ahead, key=lambda key: (self._disappointments[key], -ahead[key], key))
        self._request += 1
        self._asked, self._waited_ticks = peer, 0
        await self._network.send(peer, BlocksRequest(self._request, height + 1, SYNC_BLOCKS_MAX))

    def accept(self, peer: bytes, reply: Blocks) -> bool:
        """Whether this is the answer to the request under way; which is then over."""
        if self._asked != peer or reply.request != self._request:
            return False
        self._asked = None
        if not reply.blocks:
            self._disappoint(peer)
        return bool(reply.blocks)

    def _disappoint(self, peer: bytes) -> None:
        if len(self._disappointments) > PEERS_REMEMBERED_MAX:
            self._disappointments.clear()
        self._disappointments[peer] += 1
        self._cooling.add(peer)
        self.forget(peer)

    async def serve(self, peer: bytes, request: BlocksRequest) -> None:
        """Answer with as many stored blocks as fit half a message body, at least one if there is one."""
        blocks: list[tuple[bytes, bytes]] = []
        size = 0
        # No block has height 0, so an answer from there has no first one.
        for stored in self._store.blocks(request.from_height, request.count) if request.from_height else ():
            size += len(stored.block) + len(stored.certificate)
            if blocks and size > BODY_BYTES_MAX // 2:
                break
            blocks.append((stored.block, stored.certificate))
        await self._network.send(peer, Blocks(request.request, tuple(blocks)))


def follows_chain(peer: PeerInfo) -> bool:
    """Whether a peer takes part in consensus gossip; a light client only asks."""
    return any(role != "inference" for role in peer.roles)
