"""Checks of `packets.json`."""

from __future__ import annotations

from dataclasses import asdict

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.errors import RemoteError
from deepshard.primitives import expand
from deepshard.wire.packets import PacketOpener, PacketSealer, Rekey, pack_control, packet_size, parse_control

_SIZE_BYTES = 4


def check(case: Fields) -> Json:
    """Do what `operation` says."""
    match case["operation"]:
        case "seal":
            return _seal(case)
        case "open":
            return _open(case)
        case "size":
            return {"size": packet_size(case.data("prefix"))}
        case _:
            control = parse_control(case.data("plain"))
            kind, fields = type(control).__name__.upper(), asdict(control)
            return {"plain": pack_control(control), "type": kind, "fields": fields}


def _seal(case: Fields) -> Json:
    plains = [unspell(plain) for plain in case["plains"]]
    sealer, opener = PacketSealer(case.data("key")), PacketOpener(case.data("key"))
    key, packets, keys = case.data("key"), [], []
    for plain in plains:
        keys.append(key)
        if plain == pack_control(Rekey()):
            packets.append(bytes(sealer.rekey()))
            key = expand(key, "link rekey", 32)
        else:
            packets.append(bytes(sealer.seal(plain)))
    opened = [bytes(opener.open(packet[:_SIZE_BYTES], packet[_SIZE_BYTES:])) for packet in packets]
    return {"packets": packets, "keys": keys, "plains": opened}


def _open(case: Fields) -> Json:
    """All but the last packet open; the last one mustn't."""
    packets = [unspell(packet) for packet in case["packets"]]
    opener = PacketOpener(case.data("key"))
    for number, packet in enumerate(packets):
        try:
            opener.open(packet[:_SIZE_BYTES], packet[_SIZE_BYTES:])
        except RemoteError:
            if number != case["opened"]:
                return {"opened": number}
            raise
    return {"opened": len(packets)}
