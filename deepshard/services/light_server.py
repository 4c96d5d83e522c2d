"""A whole node's answers to light clients: headers from its store, and records of its newest state with proofs."""

from __future__ import annotations

from deepshard.actors import Mailbox
from deepshard.consensus.types import Block
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX
from deepshard.net.types import NetworkPort, PeerInfo, Received
from deepshard.services.view import ChainView
from deepshard.wire.messages import Headers, HeadersRequest, ProofReply, ProofRequest


class LightServer:
    """Answers light clients from a full node's store and newest state."""

    def __init__(self, *, view: ChainView, store: ChainStore, network: NetworkPort) -> None:
        self._view = view
        self._store = store
        self._network = network
        self.mailbox: Mailbox[Received] = Mailbox()

    async def run(self) -> None:
        """Answer until cancelled."""
        while True:
            event = await self.mailbox.get()
            match event.message:
                case HeadersRequest():
                    await self._headers(event.peer, event.message)
                case ProofRequest(request=request, key=key):
                    state, height = self._view.state, self._view.height
                    reply = ProofReply(request, height, state.get(key), encode(state.prove(key)))
                    await self._network.send(event.peer.public_key, reply)
                case _:
                    error = RemoteError(f"{type(event.message).__name__} is not a light client's request")
                    self._network.penalise(event.peer.public_key, error)

    async def _headers(self, peer: PeerInfo, request: HeadersRequest) -> None:
        headers: list[tuple[bytes, bytes, bytes]] = []
        size = 0
        for height in range(max(1, request.from_height), request.from_height + request.count):
            stored = self._store.block(height)
            if stored is None:
                break
            header = encode(decode(stored.block, Block, bytes_max=BLOCK_BYTES_MAX).header)
            light = (header, stored.certificate, stored.validators)
            size += sum(map(len, light))
            if headers and size > BODY_BYTES_MAX // 2:
                break
            headers.append(light)
        await self._network.send(peer.public_key, Headers(request.request, tuple(headers)))
