"""A validator's hash onion: its share of the beacon, fixed when it bonds.

Layer 0 comes from a secret seed, layer k is `tagged_hash("onion", layer k-1)`, and the last layer is the tip that the
validator registers. With every block it proposes it reveals the layer below its tip, so it can't choose what it adds
to the beacon; it can only decline to propose. (A signature would not do: its maker can try many nonces.)
"""

from __future__ import annotations

from typing import Final

from deepshard.errors import LocalError
from deepshard.primitives import tagged_hash

ONION_LAYERS: Final = 1 << 16
"""Blocks a validator can propose before it has to bond again under a new key."""
_STRIDE: Final = 256


def onion_layer_above(layer: bytes) -> bytes:
    """The layer whose preimage is `layer`."""
    return tagged_hash("onion", layer)


def beacon_after(beacon: bytes, preimage: bytes) -> bytes:
    """Beacon after a block whose proposer revealed `preimage`."""
    return tagged_hash("beacon", beacon, preimage)


class OnionChain:
    """The layers of one onion; keeps every 256th and computes the others when asked.

    Making one costs `layers` hashes (about a tenth of a second), finding a preimage at most 512.
    """

    def __init__(self, seed: bytes, layers: int = ONION_LAYERS) -> None:
        """Compute the onion of a 32-byte secret `seed`."""
        layer = tagged_hash("onion seed", seed)
        self._kept = [layer]
        for index in range(1, layers + 1):
            layer = onion_layer_above(layer)
            if index % _STRIDE == 0 or index == layers:
                self._kept.append(layer)
        self._layers = layers
        self._index_of = {kept: min(i * _STRIDE, layers) for i, kept in enumerate(self._kept)}
        self.tip = layer
        """What the validator registers; 32 bytes."""

    def index_of(self, tip: bytes) -> int:
        """Number of layers left below `tip`.

        Raises:
            LocalError: the tip isn't a layer of this onion: the validator runs with another seed than it bonded with.
        """
        layer = tip
        for steps in range(_STRIDE + 1):
            index = self._index_of.get(layer)
            if index is not None:
                return index - steps
            layer = onion_layer_above(layer)
        raise LocalError(f"hash-onion tip {tip.hex()} is not a layer of this node's onion: wrong seed?")

    def preimage(self, tip: bytes) -> bytes:
        """What to reveal while `tip` is registered.

        Raises:
            LocalError: not a layer of this onion, or the onion is used up.
        """
        index = self.index_of(tip) - 1
        if index < 0:
            raise LocalError(f"hash onion is used up after {self._layers} blocks: unbond and bond with a new one")
        layer = self._kept[index // _STRIDE]
        for _ in range(index % _STRIDE):
            layer = onion_layer_above(layer)
        return layer
