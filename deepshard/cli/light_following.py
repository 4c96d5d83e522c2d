"""Runs a light client until it is level, until it has an answer, or until a person has seen enough."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio

from deepshard.cli.light_home import LightHome, evidence_folder, open_home
from deepshard.cli.light_session import LightSession, exit_codes
from deepshard.cli.light_view import View, open_view, verified
from deepshard.consensus.light_attack import blame, evidence_of
from deepshard.consensus.light_events import Attacked, Effect, Mismatch, Trusted, Unwitnessed
from deepshard.disk.evidence import EvidenceFolder
from deepshard.primitives import format_address


def follow_chain(
    folder: Path,
    *,
    genesis: Path | None,
    peers: tuple[str, ...],
    trust: tuple[int, bytes] | None,
    once: bool,
    needs_witness: bool,
    patience_s: float,
    as_json: bool,
) -> None:
    """Show headers as they are verified: until level with the peers, or until a signal.

    Raises:
        UsageError: see `open_home`.
        CommandFailed: no peer leads on, trust has expired, or two histories are signed.
        LocalError: the home's file failed.
    """
    with _opened(folder, genesis, peers) as home:
        chain_id = home.followed.genesis.chain_id
        shown: list[View] = []
        session = LightSession(
            home,
            trust=trust,
            needs_witness=needs_witness,
            heard=lambda effect: _show(shown[0], home.evidence, effect),
            linked=lambda count: _say_linked(shown[0], count),
        )
        view = open_view(f"{chain_id}, verified from peers", as_json=as_json, live=not once)
        shown.append(view)
        try:
            trusted = session.client.trusted
            facts = {"chain_id": chain_id, "height": trusted.height, "block_id": trusted.block_id.hex()}
            view.say("started", f"{chain_id}: going on from height {trusted.height}", facts)
            trio.run(_follow, session, once, patience_s, strict_exception_groups=True)
        finally:
            view.close()


async def _follow(session: LightSession, once: bool, patience_s: float) -> None:  # noqa: FBT001  # trio.run has no names
    async with session.running(), trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        await session.level(patience_s)
        if not once:
            await session.run_on()
        nursery.cancel_scope.cancel()


def ask_once(
    read: Callable[[LightSession], Awaitable[dict[str, Any]]],
    folder: Path,
    *,
    genesis: Path | None,
    peers: tuple[str, ...],
    trust: tuple[int, bytes] | None,
    needs_witness: bool,
    patience_s: float,
) -> dict[str, Any]:
    """Come level with the peers, and read something proven.

    Raises:
        UsageError: see `open_home`.
        CommandFailed: no peer leads on, trust has expired, or two histories are signed.
        LocalError: the home's file failed.
    """

    async def run(session: LightSession) -> dict[str, Any]:
        async with session.running():
            await session.level(patience_s)
            return await read(session)

    with _opened(folder, genesis, peers) as home:
        session = LightSession(home, trust=trust, needs_witness=needs_witness, heard=lambda _: None)
        return trio.run(run, session, strict_exception_groups=True)


@contextmanager
def _opened(folder: Path, genesis: Path | None, peers: tuple[str, ...]) -> Iterator[LightHome]:
    with exit_codes(evidence_folder(folder)):
        home = open_home(folder, genesis=genesis, peers=peers)
        try:
            yield home
        finally:
            home.close()


def _show(view: View, folder: EvidenceFolder, effect: Effect) -> None:
    match effect:
        case Trusted():
            for one in verified(effect):
                view.show(one)
        case Unwitnessed(height=height):
            text = f"no second peer shows height {height}: from here on headers go by the word of one"
            view.say("unwitnessed", text, {"height": height})
        case Mismatch(error=error):
            view.say("other-block", str(error), {"height": error.height, "shown": error.shown.hex()})
        case Attacked(attack=attack, witness=witness):
            evidence = evidence_of(attack)
            found = blame(evidence, attack.chain_id)
            height = attack.first.header.height
            facts = {
                "height": height,
                "common_height": attack.common_height,
                "block_ids": [one.header.block_id().hex() for one in (evidence.first, evidence.second)],
                "signers": [[format_address(address) for address in signers] for signers in found.signers],
                "convicted": [format_address(address) for address in found.convicted],
                "witness": witness.hex(),
                "evidence": str(folder.path_of(evidence)),
            }
            view.say("attack", f"two signed histories: at height {height} peers show two different blocks", facts)
        case _:
            pass


def _say_linked(view: View, count: int) -> None:
    text = "1 peer is linked" if count == 1 else f"{count} peers are linked"
    view.say("peers", text if count else "no peer is linked: dialling", {"peers": count})


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
