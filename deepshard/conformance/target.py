"""The implementation under test: where it is, which network it is on, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from deepshard.conformance.expect import taken_in
from deepshard.conformance.opening import HELLO, REFUSAL, Network, Self, message, read_refusal
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.verdicts import ClauseFailed, Witness
from deepshard.errors import UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.params import Genesis
from deepshard.limits import GOSSIP_DEGREE_HIGH
from deepshard.net.endpoints import Endpoint
from deepshard.wire.handshake import RefusalReason
from deepshard.wire.messages import Peers

_NOBODYS_CHAIN = "conformance-asks-which-network-this-is"


@dataclass(frozen=True, slots=True)
class Target:
    """What the suite knows of the target."""

    endpoint: Endpoint
    network: Network
    key: bytes
    """Its public key: the one that was given, else the one it proved at first."""
    timeout_s: float
    strict: bool
    genesis: Genesis | None = None
    account: SecretKey | None = None
    """An account with a balance, for cases that send transactions."""
    mesh_room: int = GOSSIP_DEGREE_HIGH
    """Links of the suite that may be members of the target's gossip mesh at a time."""


async def connect(endpoint: Endpoint, timeout_s: float) -> trio.SocketStream:
    """A TCP connection.

    Raises:
        UsageError: nobody answers there.
    """
    try:
        with trio.fail_after(timeout_s):
            return await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except (OSError, trio.TooSlowError, UnicodeError) as error:
        why = f"no answer within {timeout_s:g} s" if isinstance(error, trio.TooSlowError) else _reason(error)
        raise UsageError(f"the target {endpoint} can't be reached: {why}") from None


def _reason(error: BaseException) -> str:
    inner = error.__cause__
    while isinstance(inner, BaseExceptionGroup):
        inner = inner.exceptions[0]
    return str(inner or error)


async def find_network(endpoint: Endpoint, timeout_s: float) -> Network:
    """Which network the target is on, by its own word: a HELLO of another one is refused with the two values.

    Raises:
        UsageError: it can't be reached, or doesn't say.
    """
    chain_id = await _ask(endpoint, timeout_s, Network(_NOBODYS_CHAIN, bytes(32)), RefusalReason.CHAIN_MISMATCH)
    text = await _ask(endpoint, timeout_s, Network(chain_id, bytes(32)), RefusalReason.GENESIS_MISMATCH)
    try:
        genesis_hash = bytes.fromhex(text)
    except ValueError:
        genesis_hash = b""
    if len(genesis_hash) != 32:
        raise UsageError(f"the target {endpoint} doesn't say which genesis it has: give --genesis or --genesis-hash")
    return Network(chain_id, genesis_hash)


async def _ask(endpoint: Endpoint, timeout_s: float, network: Network, reason: RefusalReason) -> str:
    stream = await connect(endpoint, timeout_s)
    peer = RawPeer(stream, network, Self.fresh(), Witness(), timeout_s, dialling=True)
    try:
        await peer.send_bytes(message(HELLO, peer.opening.hello_record()), "HELLO of an unknown network")
        payload = await peer.expect_handshake_message()
        refusal = read_refusal(payload) if payload[0] == REFUSAL else None
    except ClauseFailed as failed:
        raise UsageError(f"{endpoint} doesn't speak this protocol: expected a REFUSAL, got {failed.got}") from None
    finally:
        await peer.close()
    if refusal is None or refusal.reason is not reason:
        raise UsageError(
            f"the target {endpoint} doesn't say which network it is on: "
            "give --genesis FILE, or --chain-id and --genesis-hash"
        )
    return refusal.ours


async def meet(endpoint: Endpoint, network: Network, timeout_s: float, expected_key: bytes | None) -> tuple[bytes, int]:
    """Shake hands once; gives the target's key, and how many nodes it says it is linked with.

    Raises:
        UsageError: the target can't be reached, is on another network, or has another key.
    """
    try:
        await _greet(endpoint, network, timeout_s)
        return await _shake_hands(endpoint, network, timeout_s, expected_key)
    except ClauseFailed as failed:
        raise UsageError(
            f"{endpoint} takes no part in a handshake: expected {failed.expected}, got {failed.got}"
        ) from None


async def _greet(endpoint: Endpoint, network: Network, timeout_s: float) -> None:
    """HELLO alone: whether it is refused."""
    stream = await connect(endpoint, timeout_s)
    peer = RawPeer(stream, network, Self.fresh(), Witness(), timeout_s, dialling=True)
    try:
        await peer.send_bytes(message(HELLO, peer.opening.hello_record()), "HELLO")
        payload = await peer.expect_handshake_message()
        if payload[0] == REFUSAL:
            refusal = read_refusal(payload)
            raise UsageError(
                f"the target {endpoint} is on another network or version: {refusal.reason.value}, "
                f"ours {refusal.theirs}, the target's {refusal.ours}"
            )
    finally:
        await peer.close()


async def _shake_hands(
    endpoint: Endpoint, network: Network, timeout_s: float, expected_key: bytes | None
) -> tuple[bytes, int]:
    stream = await connect(endpoint, timeout_s)
    peer = RawPeer(stream, network, Self.fresh(), Witness(), timeout_s, dialling=True)
    try:
        await peer.shake_hands()
        found = peer.opening.identity.public_key
        if expected_key is not None and found != expected_key:
            raise UsageError(f"the target {endpoint} has the key {found.hex()}, expected {expected_key.hex()}")
        await taken_in(peer)
        return found, await _known_nodes(peer)
    finally:
        await peer.close()


async def _known_nodes(peer: RawPeer) -> int:
    """How many addresses its first Peers names; none if it doesn't come."""
    with trio.move_on_after(1.0):
        while True:
            packet = await peer.read()
            if isinstance(packet.message, Peers):
                return len(packet.message.addresses)
    return 0
