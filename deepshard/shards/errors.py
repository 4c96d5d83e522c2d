"""What a peer can get wrong about weights; each error names the place."""

from __future__ import annotations

from deepshard.errors import RemoteError


class CorruptChunk(RemoteError):
    """Bytes that aren't the chunk they claim to be, or don't decode to the shard that the manifest names.

    One of them is a ban: frames are authenticated and whoever serves verifies what it reads, so the sender meant it.
    Two at half the price would be none: points decay between them, and nothing more is asked of it after the first.
    """

    penalty = 100

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(f"shard {shard}: {reason}")
        self.shard, self.reason = shard, reason


class InvalidManifest(RemoteError):
    """A manifest that breaks a rule; subclasses say which."""

    penalty = 50


class ManifestOutOfBounds(InvalidManifest):
    """A count, size, name or field beyond its bound."""


class DuplicateName(InvalidManifest):
    """Two tensors, or two files, of one name."""


class BadCoverage(InvalidManifest):
    """The shards' slices don't cover every tensor's elements exactly once and in order."""


class WrongShardSize(InvalidManifest):
    """A shard's declared size isn't what its slices, or its codec, come to."""


class WrongWeightsRoot(InvalidManifest):
    """The declared root isn't the root over the tensor table and the decoded digests."""


class InconsistentBase(InvalidManifest):
    """Codec, base and parent contradict each other, or the base isn't the parent's shard."""


class WrongFileParts(InvalidManifest):
    """A file's number of parts isn't what its size needs."""
