"""The implementation under test: where it is, which network it is on, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from deepshard.conformance.expect import until
from deepshard.conformance.opening import FINISH, HELLO, REFUSAL, Network, Self, message, read_refusal
from deepshard.conformance.packets import PING
from deepshard.conformance.peer import Ended, RawPeer
from deepshard.conformance.verdicts import ClauseFailed, Witness
from deepshard.errors import UsageError
from deepshard.identity import SecretKey
from deepshard.ledger.params import Genesis
from deepshard.net.endpoints import Endpoint
from deepshard.wire.handshake import RefusalReason

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


async def meet(endpoint: Endpoint, network: Network, timeout_s: float, expected_key: bytes | None) -> bytes:
    """Shake hands once; gives the target's key.

    Raises:
        UsageError: the target can't be reached, is on another network, or has another key.
    """
    stream = await connect(endpoint, timeout_s)
    peer = RawPeer(stream, network, Self.fresh(), Witness(), timeout_s, dialling=True)
    try:
        await _greet(peer, endpoint, expected_key)
    except ClauseFailed as failed:
        raise UsageError(
            f"{endpoint} takes no part in a handshake: expected {failed.expected}, got {failed.got}"
        ) from None
    finally:
        await peer.close()
    return peer.opening.identity.public_key


async def _greet(peer: RawPeer, endpoint: Endpoint, expected_key: bytes | None) -> None:
    opening = peer.opening
    await peer.send_bytes(message(HELLO, opening.hello_record()), "HELLO")
    payload = await peer.expect_handshake_message()
    if payload[0] == REFUSAL:
        refusal = read_refusal(payload)
        raise UsageError(
            f"the target {endpoint} is on another network or version: {refusal.reason.value}, "
            f"ours {refusal.theirs}, the target's {refusal.ours}"
        )
    await peer.close()
    await _shake(peer, endpoint, expected_key)


async def _shake(peer: RawPeer, endpoint: Endpoint, expected_key: bytes | None) -> None:
    again = RawPeer(
        await connect(endpoint, peer.timeout_s), peer.opening.network, peer.me, Witness(), peer.timeout_s, dialling=True
    )
    try:
        await again.shake_hands()
        peer.opening.identity = again.opening.identity
        found = again.opening.identity.public_key
        if expected_key is not None and found != expected_key:
            raise UsageError(f"the target {endpoint} has the key {found.hex()}, expected {expected_key.hex()}")
        await until(again, lambda packet: packet.kind == PING, "PING, which takes the dialler in")
    except Ended as ended:
        raise again.failed(f"an answer to message {FINISH}", ended.how) from None
    finally:
        await again.close()
