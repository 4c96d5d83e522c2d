"""Edwards25519 by its textbook formulas (RFC 8032, section 5.1), slow and plain, to build signatures at the edges.

Nothing here is for real keys: it takes no constant time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from hashlib import sha512
from typing import Final

P: Final = 2**255 - 19
ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of the base point: L."""
_D: Final = -121665 * pow(121666, -1, P) % P
_ROOT: Final = pow(2, (P - 1) // 4, P)
"""A square root of -1."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point of the curve in affine coordinates."""

    x: int
    y: int

    def __add__(self, other: Point) -> Point:
        product = _D * self.x * other.x * self.y * other.y
        x = (self.x * other.y + other.x * self.y) * pow(1 + product, -1, P)
        y = (self.y * other.y + self.x * other.x) * pow(1 - product, -1, P)
        return Point(x % P, y % P)

    def __neg__(self) -> Point:
        return Point(-self.x % P, self.y)

    def __rmul__(self, scalar: int) -> Point:
        result, power = IDENTITY, self
        while scalar:
            if scalar & 1:
                result += power
            power += power
            scalar >>= 1
        return result

    def encode(self) -> bytes:
        """The canonical encoding."""
        return encode_y(self.y, self.x & 1)


IDENTITY: Final = Point(0, 1)


def encode_y(y: int, sign: int) -> bytes:
    """32 bytes with any `y` below 2^255, also one that is no coordinate of a point or isn't below p."""
    return (y | sign << 255).to_bytes(32, "little")


def point_of(y: int, sign: int) -> Point | None:
    """The point with this y and sign of x; None if there is none."""
    u, v = (y * y - 1) % P, (_D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P == -u % P:
        x = x * _ROOT % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    return Point(-x % P if x & 1 != sign else x, y % P)


@cache
def base() -> Point:
    """The base point B."""
    found = point_of(4 * pow(5, -1, P) % P, 0)
    assert found is not None
    return found


@cache
def torsion() -> tuple[Point, ...]:
    """The eight points of small order: multiples 0 to 7 of one of order 8."""
    y = 2
    while True:
        point = point_of(y, 0)
        small = None if point is None else ORDER * point
        if small is not None and 4 * small != IDENTITY:
            return tuple(k * small for k in range(8))
        y += 1


@dataclass(frozen=True, slots=True)
class Secret:
    """What RFC 8032, section 5.1.5 derives from a seed."""

    scalar: int
    prefix: bytes

    @classmethod
    def of(cls, seed: bytes) -> Secret:
        """Derive it."""
        digest = sha512(seed).digest()
        scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
        return cls(scalar, digest[32:])


def challenge(commitment: bytes, public: bytes, message: bytes) -> int:
    """SHA-512(R | A | M) modulo L."""
    return int.from_bytes(sha512(commitment + public + message).digest(), "little") % ORDER


def scalar_bytes(scalar: int) -> bytes:
    """S as it stands in a signature."""
    return scalar.to_bytes(32, "little")
