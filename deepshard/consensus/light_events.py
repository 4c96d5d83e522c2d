"""What the light client is told, everything it can ask of its host, and what it keeps."""

from __future__ import annotations

from dataclasses import dataclass

from deepshard.consensus.light import LightBlock, TrustExpired, WrongTrustedHeader
from deepshard.consensus.types import Header
from deepshard.encoding import Record
from deepshard.errors import RemoteError
from deepshard.primitives import Digest, Height


class LightAttack(Record, frozen=True):
    """Two light blocks of one height that both follow from one trusted header: some of their signers are faulty.

    `first` is what this client went by, `second` what a witness showed. At `common_height` 0 the id is the genesis'.
    """

    chain_id: str
    common_height: Height
    common_id: Digest
    first: LightBlock
    second: LightBlock


class SavedTrust(Record, frozen=True):
    """What outlives a restart. `root` is a header that a person named; without one, trust began at genesis."""

    genesis_hash: Digest
    root: LightBlock | None
    blocks: tuple[LightBlock, ...]
    attack: LightAttack | None


# -- events


@dataclass(frozen=True, slots=True)
class PeerAt:
    """A peer claims to have this height."""

    peer: bytes
    height: int


@dataclass(frozen=True, slots=True)
class PeerGone:
    """A link is down."""

    peer: bytes


@dataclass(frozen=True, slots=True)
class HeadersShown:
    """An answer came; each part is header, certificate and validators, as on the wire."""

    peer: bytes
    request: int
    parts: tuple[tuple[bytes, bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class HeaderWanted:
    """Somebody needs the header of a height below the newest trusted one; answered by `HeaderFound`."""

    height: int


@dataclass(frozen=True, slots=True)
class TimePassed:
    """Nothing but time."""


Event = PeerAt | PeerGone | HeadersShown | HeaderWanted | TimePassed

# -- effects


@dataclass(frozen=True, slots=True)
class AskHeaders:
    """Ask a peer for light blocks from a height on."""

    peer: bytes
    request: int
    from_height: int
    count: int


@dataclass(frozen=True, slots=True)
class Penalise:
    """A peer erred."""

    peer: bytes
    error: RemoteError


@dataclass(frozen=True, slots=True)
class Trusted:
    """Headers are trusted from now on, the newest first.

    Attributes:
        headers: verified, or proven by the parent id of one that is.
        blocks: of these, the ones that were verified by their own certificates.
        source: who showed them.
        agreed: the peers that showed the same; nobody where nobody could be asked.
    """

    headers: tuple[Header, ...]
    blocks: tuple[LightBlock, ...]
    source: bytes
    agreed: tuple[bytes, ...]

    @property
    def witnesses(self) -> int:
        """How many peers showed the same."""
        return len(self.agreed)


@dataclass(frozen=True, slots=True)
class Unwitnessed:
    """From this height on headers are trusted, or wait, without a witness; said once until there is one again."""

    height: int


@dataclass(frozen=True, slots=True)
class Attacked:
    """Nothing is trusted any more above the common height, now or later; everybody should see the evidence."""

    attack: LightAttack
    witness: bytes


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A peer's header isn't the one that a person named as trusted."""

    peer: bytes
    error: WrongTrustedHeader


@dataclass(frozen=True, slots=True)
class Expired:
    """What is trusted is too old to go on from; only a person can help."""

    error: TrustExpired


@dataclass(frozen=True, slots=True)
class HeaderFound:
    """The header asked for by `HeaderWanted`; None if it is too far down."""

    height: int
    header: Header | None


Effect = AskHeaders | Penalise | Trusted | Unwitnessed | Attacked | Mismatch | Expired | HeaderFound
