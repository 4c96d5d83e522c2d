"""Units asked for after IHAVE: of whom and when, so that nobody is asked in vain twice and promises count. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from deepshard.limits import GOSSIP_ASK_AGAIN_S, GOSSIP_ASKED_PEERS_MAX, GOSSIP_PROMISE_S, GOSSIP_PROMISES_MAX


class Asking:
    """Promises by unit and peer. Each peer has at most `GOSSIP_PROMISES_MAX`, so all of them are bounded."""

    def __init__(self) -> None:
        self._asked: dict[bytes, dict[bytes, float]] = {}
        self._of_peer: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return self._of_peer.total()

    def choose(self, peer: bytes, ids: Iterable[bytes], room: int, now: float) -> tuple[bytes, ...]:
        """Of the ids that this peer has and we don't, those to ask it for now, at most `room`; they are noted."""
        room = min(room, GOSSIP_PROMISES_MAX - self._of_peer[peer])
        chosen: list[bytes] = []
        for unit_id in ids:
            if len(chosen) >= room:
                break
            asked = self._asked.get(unit_id)
            if asked is None:
                asked = self._asked[unit_id] = {}
            elif (
                peer in asked or len(asked) >= GOSSIP_ASKED_PEERS_MAX or now < max(asked.values()) + GOSSIP_ASK_AGAIN_S
            ):
                continue
            asked[peer] = now
            self._of_peer[peer] += 1
            chosen.append(unit_id)
        return tuple(chosen)

    def arrived(self, unit_id: bytes) -> None:
        """The unit came, from whomever: all who promised it are free."""
        for peer in self._asked.pop(unit_id, ()):
            self._release(peer)

    def expire(self, now: float) -> tuple[bytes, ...]:
        """A heartbeat: the peers of whom a promise ran out, each once."""
        broken: dict[bytes, None] = {}
        for unit_id, asked in list(self._asked.items()):
            for peer, asked_at in list(asked.items()):
                if now >= asked_at + GOSSIP_PROMISE_S:
                    broken[peer] = None
                    self._forget(unit_id, asked, peer)
        return tuple(broken)

    def forget_peer(self, peer: bytes) -> None:
        """A link ended: whatever it promised may be asked of others at once."""
        if not self._of_peer[peer]:
            return
        for unit_id, asked in list(self._asked.items()):
            if peer in asked:
                self._forget(unit_id, asked, peer)

    def _forget(self, unit_id: bytes, asked: dict[bytes, float], peer: bytes) -> None:
        del asked[peer]
        self._release(peer)
        if not asked:
            del self._asked[unit_id]

    def _release(self, peer: bytes) -> None:
        self._of_peer[peer] -= 1
        if self._of_peer[peer] <= 0:
            del self._of_peer[peer]
