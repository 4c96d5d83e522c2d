"""Checks of `streams.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json, unspell
from deepshard.conformance.vectors.read import read_session
from deepshard.wire.events import Event, Failed, PeerLeft
from deepshard.wire.packets import PacketOpener, PacketSealer, Pong, Rekey, pack_control, parse_control
from deepshard.wire.receiving import RawFrame
from deepshard.wire.session import Session

_SIZE_BYTES = 4
_FRAME, _DATA = 1, 2


class _Link:
    """A listener that has shaken hands, and a hand that seals the dialler's packets."""

    def __init__(self, shared: Json) -> None:
        self.session: Session = read_session(shared["listener"], dialling=False)
        self._sealer = PacketSealer(unspell(shared["to_listener"]))
        self._opener = PacketOpener(unspell(shared["to_dialler"]))
        self.kinds: list[int] = []
        self.pongs: list[int] = []
        self.left: Json | None = None
        for name in ("hello", "finish"):
            self.session.receive(unspell(shared[name]), 0.0)
            said = [bytes(buffer) for buffer in self.session.packets()]
        self._note_packets(said)

    def take(self, plain: bytes, *, finished: bool) -> None:
        """Seal and receive one packet; raises what the session ends with."""
        is_rekey = plain == pack_control(Rekey())
        sealed = self._sealer.rekey() if is_rekey else self._sealer.seal(plain)
        for event in self.session.receive(sealed, 0.0):
            self._take_event(event, finished=finished)
        self._note_packets([bytes(buffer) for buffer in self.session.packets()])

    def _take_event(self, event: Event, *, finished: bool) -> None:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, PeerLeft):
            self.left = {"reason": event.reason, "text": event.text}
        if isinstance(event, RawFrame):
            received = self.session.open(event)
            if received is not None:
                self.kinds.append(received.message.KIND)
            if finished:
                self.session.consumed(event)

    def _note_packets(self, buffers: list[bytes]) -> None:
        for packet in buffers:
            plain = bytes(self._opener.open(packet[:_SIZE_BYTES], packet[_SIZE_BYTES:]))
            if plain[0] in {_FRAME, _DATA}:
                continue
            control = parse_control(plain)
            if isinstance(control, Pong):
                self.pongs.append(control.nonce)


def check(case: Fields) -> Json:
    """Feed the packets to a listener."""
    link = _Link(case.shared)
    finished = case.get("finished", True)
    for plain in case["plains"]:
        link.take(unspell(plain), finished=finished)
    results: Json = {"kinds": link.kinds}
    if "pongs" in case:
        results["pongs"] = link.pongs
    if "left" in case:
        results["left"] = link.left
    return results
