"""Which blobs and chunks a version of the weights needs, who may fetch them, and bringing them here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deepshard.chunk_tree import ShardChunks
from deepshard.errors import RemoteError
from deepshard.ledger.state import POOLS, State
from deepshard.net.types import PeerInfo
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.services.shards import FetchReport, ShardExchange
from deepshard.shards.layout import chunk_leaves, shard_lineage
from deepshard.shards.manifest import Manifest
from deepshard.shards.rules import check_child, decode_manifest


class WrongManifest(RemoteError):
    """A manifest that isn't the one the ledger names, or doesn't build on the weights it has to build on."""

    penalty = 50


@dataclass(frozen=True, slots=True)
class Lineage:
    """Manifests from the newest to the full one its deltas rest on, with their content addresses."""

    manifests: tuple[tuple[bytes, Manifest], ...]

    @property
    def newest(self) -> Manifest:
        """The version asked for."""
        return self.manifests[0][1]

    def files(self) -> dict[bytes, int | None]:
        """Small files of the newest version (config, tokenizer)."""
        return {part: None for file in self.newest.files for part in file.parts}

    def chunks(self) -> dict[bytes, int | None]:
        """Every chunk needed to decode the newest version, with its size."""
        return self.chunks_of(range(len(self.newest.shards)))

    def leaves(self) -> tuple[ShardChunks, ...]:
        """Leaves of the version's chunk tree, from which the ledger draws audits."""
        return chunk_leaves([manifest for _, manifest in self.manifests])

    def chunks_of(self, shards: Iterable[int]) -> dict[bytes, int | None]:
        """Chunks needed to decode some shards: each shard's own and, through deltas, those it rests on."""
        wanted: dict[bytes, int | None] = {}
        for index in shards:
            entries = shard_lineage([manifest for _, manifest in self.manifests], index)
            wanted.update({entry.chunk: entry.chunk_bytes for entry in entries})
        return wanted


class WeightsRegistry:
    """What this node knows of manifests, and the rule of who may fetch which weight chunk.

    Validators of the active set may fetch anything; a trainer in the running round may fetch the base; a licence holder
    may fetch the versions of its licence. Chunks of submissions go to validators only. Texts, manifests, config and
    tokenizer files that the state names are public. What nothing names is served to nobody.
    """

    def __init__(self, exchange_fetch: Callable[[], ShardExchange], state: Callable[[], State | None]) -> None:
        self._exchange = exchange_fetch
        self._state = state
        self._versions_of_chunk: dict[bytes, int] = {}
        self._submission_chunks: set[bytes] = set()
        self._known: dict[bytes, Manifest] = {}
        self._public: set[bytes] = set()
        self._public_root = b""
        self._users = 0

    @property
    def busy(self) -> bool:
        """Whether someone needs every chunk it has fetched."""
        return self._users > 0

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """While inside, no weight chunk is deleted."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    def knows(self, digest: bytes) -> bool:
        """Whether a manifest's chunks are known here, so that they can be served."""
        return digest in self._known

    def weight_chunks(self) -> AbstractSet[bytes]:
        """Every weight chunk of every manifest known here."""
        return self._versions_of_chunk.keys() | self._submission_chunks

    def known_lineage(self, digest: bytes) -> Lineage:
        """Lineage of a manifest that `lineage` has brought here before."""
        chain = []
        while digest != ZERO_DIGEST:
            chain.append((digest, self._known[digest]))
            digest = self._known[digest].parent
        return Lineage(tuple(chain))

    def register(self, digest: bytes, manifest: Manifest, version: int | None) -> None:
        """Learn the chunks of a manifest: of an accepted version, or (None) of a submission."""
        self._known[digest] = manifest
        for entry in manifest.shards:
            if version is None:
                self._submission_chunks.add(entry.chunk)
            else:
                self._versions_of_chunk[entry.chunk] = min(version, self._versions_of_chunk.get(entry.chunk, version))

    def may_fetch(self, peer: PeerInfo, digest: bytes) -> bool:
        """Whether `peer` may fetch `digest` from this node now."""
        state = self._state()
        if state is None:
            return False
        if self._is_public(state, digest):
            return True
        version = self._versions_of_chunk.get(digest)
        if version is None and digest not in self._submission_chunks:
            return False
        if any(address == peer.address for address, _ in state.validators()):
            return True
        if version is None:
            return False
        licence = state.licence(peer.address)
        if licence is not None and version <= licence.last_version:
            return True
        current = state.current_round()
        return (
            current is not None
            and current.status in {"joining", "training", "revealing", "scoring"}
            and version <= current.base_version
            and any(entry.address == peer.address for entry in current.trainers)
        )

    def _is_public(self, state: State, digest: bytes) -> bool:
        if digest in self._public:
            return True
        if self._public_root == state.root:
            return False
        self._public_root = state.root
        for name in POOLS:
            self._public.update(state.pool(name))
        for proposal in state.proposals():
            self._public.update(segment.digest for segment in proposal.segments)
        for past in state.rounds():
            self._public.update(entry.manifest for entry in past.trainers)
        for number in range(state.chain().version + 1):
            model = state.model(number)
            self._public.update([] if model is None else [model.manifest])
        for manifest in self._known.values():
            self._public.update(part for file in manifest.files for part in file.parts)
        return digest in self._public

    def _accepted(self) -> dict[bytes, int]:
        """Lowest version that each accepted manifest is."""
        state = self._state()
        versions = range(state.chain().version, -1, -1) if state is not None else ()
        models = (state.model(version) for version in versions) if state is not None else ()
        return {model.manifest: model.version for model in models if model is not None}

    async def lineage(self, digest: bytes, *, version: int | None, parent: bytes | None = None) -> Lineage:
        """Fetch and check a manifest and those it builds on; `parent` is what a submission must build on.

        Raises:
            RemoteError: a manifest breaks its rules.
            LocalError: a manifest could not be fetched in time.
        """
        chain: list[tuple[bytes, Manifest]] = []
        wanted = digest
        while wanted != ZERO_DIGEST:
            manifest = self._known.get(wanted)
            if manifest is None:
                blob = await self._exchange().fetch_blob(wanted)
                assert content_digest(blob) == wanted
                manifest = decode_manifest(blob)
            if not chain and parent is not None and manifest.parent != parent:
                raise WrongManifest(
                    f"manifest {wanted.hex()[:16]} builds on {manifest.parent.hex()[:16]}, not on the base"
                )
            if chain:
                check_child(chain[-1][1], manifest)
            chain.append((wanted, manifest))
            wanted = manifest.parent
        accepted = self._accepted()
        for depth, (address, manifest) in enumerate(chain):
            unknown = None if depth == 0 and version is None else (version or 0)
            self.register(address, manifest, accepted.get(address, unknown))
        return Lineage(tuple(chain))

    async def fetch_all(
        self,
        lineage: Lineage,
        *,
        progress: Callable[[int, int, bytes, int], None] | None = None,
        timeout_s: float = 600.0,
    ) -> FetchReport:
        """Bring every file and chunk of a version here; what is here already isn't fetched again."""
        return await self._exchange().fetch(
            {**lineage.files(), **lineage.chunks()}, progress=progress, timeout_s=timeout_s
        )
