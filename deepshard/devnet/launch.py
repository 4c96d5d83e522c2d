"""The first steps of a run: keys, model, genesis, and ten started nodes that make blocks."""

from __future__ import annotations

import sys
import time

import trio

from deepshard.compute.jobs import Progress
from deepshard.devnet.client import NodeClient
from deepshard.devnet.genesis import CHAIN_ID, distribute, import_model, make_genesis, write_genesis
from deepshard.devnet.namespaces import HUB_HOST
from deepshard.devnet.plans import params_for
from deepshard.devnet.roster import Hosts, Participant, make_roster, node_command, write_home
from deepshard.devnet.stage import Stage, StepFailed

START_TIMEOUT_S = 120.0
LOG_NAME = "node.log"


async def launch(stage: Stage) -> None:
    """Everything up to a network whose height moves.

    Raises:
        StepFailed: the nodes don't answer, or make no blocks, in time.
        LocalError: the model can't be imported, or a process can't be started.
    """
    await _prepare(stage)
    stage.phase("start", f"starting {len(stage.roster)} nodes")
    for participant in stage.roster:
        start_node(stage, participant)
    with trio.move_on_after(START_TIMEOUT_S) as waiting:
        async with trio.open_nursery() as nursery:
            for client in stage.clients.values():
                nursery.start_soon(client.connect)
    if waiting.cancelled_caught:
        silent = [each.name for each in stage.roster if not stage.clients[each.name].is_open]
        raise StepFailed(f"no answer from {', '.join(silent) or 'a node'} within {START_TIMEOUT_S:.0f} s", *silent[:1])
    await _wait_for_blocks(stage)


async def _prepare(stage: Stage) -> None:
    settings, plan = stage.settings, stage.plan
    stage.phase("import", f"importing the base model {settings.model}")

    def show(progress: Progress) -> None:
        # The worker's thread calls; telling belongs to the main one.
        trio.from_thread.run_sync(
            stage.narrator.waiting, f"model: {progress.stage} {100 * progress.done // max(1, progress.total)} %"
        )

    with trio.move_on_after(plan.import_s) as importing:
        imported, store = await import_model(settings.model, settings.cache, show)
    if importing.cancelled_caught:
        raise StepFailed(f"the import of {settings.model} took longer than {plan.import_s:.0f} s")
    stage.report.parameters = imported.parameters
    stage.report.weights_root_before = imported.weights_root.hex()
    stage.narrator.say(f"{imported.parameters:,} parameters, {imported.encoded_bytes / 2**20:.1f} MiB as chunks")

    stage.phase("genesis", "writing keys and genesis, and placing shards on the validators")
    islands = {} if stage.network is None else stage.network.islands
    stage.roster = make_roster(
        settings.directory,
        plan,
        dishonest=settings.dishonest,
        hosts=Hosts() if stage.network is None else Hosts(peers=HUB_HOST),
        hosts_of={name: Hosts(peers=island.host, api=island.api_host) for name, island in islands.items()},
    )
    for participant in stage.roster:
        write_home(participant)
        stage.clients[participant.name] = NodeClient(participant.name, participant.home)
    genesis = make_genesis(
        stage.roster,
        params_for(plan),
        imported,
        chain_id=CHAIN_ID,
        time_ms=time.time_ns() // 1_000_000,
    )
    write_genesis(genesis, settings.directory / "genesis.json")
    held = await trio.to_thread.run_sync(distribute, genesis, store, stage.roster)
    stage.narrator.say("weight chunks held: " + ", ".join(f"{name} {count}" for name, count in held.items()))


def start_node(stage: Stage, participant: Participant) -> None:
    """Start (or start again) the node of a participant; its log continues the earlier one's."""
    directory = stage.settings.directory
    command = node_command(
        participant,
        stage.roster,
        python=sys.executable,
        genesis=directory / "genesis.json",
        threads=stage.threads,
        leases=[directory / f"lease-{slot}" for slot in range(stage.plan.slots)],
    )
    island = None if stage.network is None else stage.network.islands.get(participant.name)
    stage.running[participant.name] = stage.processes.start(
        participant.name,
        command,
        role=participant.role,
        log_path=participant.home / LOG_NAME,
        namespace=None if island is None else island.handle,
    )


async def _wait_for_blocks(stage: Stage) -> None:
    async def look() -> bool | None:
        heights = [(await stage.clients[each.name].status())["height"] for each in stage.roster]
        return True if min(heights) >= 1 else None

    await stage.until(look, what="every node at height 1 or above", timeout_s=START_TIMEOUT_S)
    for name, process in stage.running.items():
        stage.narrator.say(f"{name} runs as process {process.pid}")
