"""Faults during the epoch: done to a running node, undone again, and watched until the node takes part as before."""

from __future__ import annotations

import signal

import trio

from deepshard.devnet.client import NodeUnreachable
from deepshard.devnet.epoch import live_through, wait_for_storage
from deepshard.devnet.faults import Fault
from deepshard.devnet.launch import START_TIMEOUT_S, start_node
from deepshard.devnet.report import FaultReport
from deepshard.devnet.stage import Stage, StepFailed

RECOVERY_S = 180.0


async def live_under_faults(stage: Stage) -> None:
    """Every step of the epoch, with the faults that were asked for.

    Raises:
        StepFailed: a step did not happen in time, or a node did not recover.
        NodeRefused, NodeUnreachable: a node would not do it.
    """
    injector = Injector(stage)
    async with trio.open_nursery() as nursery:
        for fault in stage.settings.faults:
            nursery.start_soon(injector.run, fault)
        await live_through(stage)
        injector.epoch_is_over()
    if stage.settings.faults:
        stage.phase("mended", "validators fetch what they missed")
        await wait_for_storage(stage)


class Injector:
    """Does the faults of one run, one at a time: four validators stand one that is faulty."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._one_at_a_time = trio.Lock()
        self._waiting: list[trio.CancelScope] = []

    def epoch_is_over(self) -> None:
        """Faults whose phase never came are given up; what has begun goes on to its end."""
        for scope in self._waiting:
            scope.cancel()

    async def run(self, fault: Fault) -> None:
        """Wait for the fault's phase and for earlier faults to be over, do it, undo it, and see the node recover.

        Raises:
            StepFailed: the node did not take part again in time.
        """
        stage = self._stage
        report = FaultReport(kind=fault.kind, node=fault.node, phase=fault.phase, seconds=fault.seconds)
        stage.report.faults.append(report)
        scope = trio.CancelScope()
        self._waiting.append(scope)
        with scope:
            await stage.reached(fault.phase)
            async with self._one_at_a_time:
                self._waiting.remove(scope)
                await self._live_through(fault, report)

    async def _live_through(self, fault: Fault, report: FaultReport) -> None:
        stage, name = self._stage, fault.node
        report.height_before = await self._height()
        report.began_in = stage.step
        report.pid = stage.running[name].pid
        stage.down.add(name)
        match fault.kind:
            case "kill":
                await self._kill(fault, report)
            case "stop":
                await self._stop(fault, report)
            case "partition":
                await self._partition(fault, report)
        report.ended_in, ended = stage.step, trio.current_time()
        await self._see_recovery(name, report)
        stage.down.discard(name)
        report.recovery_s = round(trio.current_time() - ended, 2)
        stage.narrator.say(
            f"{name} is back: it caught up and signed block {report.signed_height}, {report.recovery_s:.1f} s later"
        )

    async def _height(self) -> int:
        return int((await self._stage.observer.status())["height"])

    async def _kill(self, fault: Fault, report: FaultReport) -> None:
        stage, name, client = self._stage, fault.node, self._stage.clients[fault.node]
        process = stage.running.pop(name)
        await stage.processes.kill(process)
        await client.close()
        stage.narrator.say(f"FAULT: {name} (process {process.pid}) is killed with SIGKILL, for {fault.seconds} s")
        if process.exit_code == -signal.SIGKILL:
            report.facts = "was killed"
        await trio.sleep(fault.seconds)
        participant = next(each for each in stage.roster if each.name == name)
        (participant.home / "api.json").unlink(missing_ok=True)  # the dead process left it
        start_node(stage, participant)
        with trio.move_on_after(START_TIMEOUT_S) as connecting:
            await client.connect()
        if connecting.cancelled_caught:
            raise StepFailed(f"{name} did not answer within {START_TIMEOUT_S:.0f} s of its restart", name)
        report.height_after = await self._height()
        self._tell_end(f"{name} is started again (process {stage.running[name].pid})", report)

    async def _stop(self, fault: Fault, report: FaultReport) -> None:
        stage, name = self._stage, fault.node
        process = stage.running[name]
        process.signal_group(signal.SIGSTOP)
        stage.narrator.say(f"FAULT: {name} (process {process.pid}) is stopped with SIGSTOP, for {fault.seconds} s")
        await trio.sleep(fault.seconds)
        if stage.processes.is_stopped(process):
            report.facts = "stood still"
        report.height_after = await self._height()
        process.signal_group(signal.SIGCONT)
        self._tell_end(f"{name} goes on after SIGCONT", report)

    async def _partition(self, fault: Fault, report: FaultReport) -> None:
        stage, name, client = self._stage, fault.node, self._stage.clients[fault.node]
        network = stage.network
        assert network is not None, "the command opens a network when a partition is asked for"
        await network.cut(name)
        cut_height = int((await client.status())["height"])
        stage.narrator.say(f"FAULT: {name} is cut off from all peers at height {cut_height}, for {fault.seconds} s")
        await trio.sleep(fault.seconds)
        own_height = int((await client.status())["height"])
        report.height_after = await self._height()
        # What was under way when the cable was pulled may have completed one block.
        if own_height <= cut_height + 1 < report.height_after:
            report.facts = f"was cut off at height {own_height}"
        await network.mend(name)
        self._tell_end(f"{name} is connected again, at height {own_height}", report)

    def _tell_end(self, what: str, report: FaultReport) -> None:
        self._stage.narrator.say(
            f"{what}; meanwhile the others went from height {report.height_before} to {report.height_after}"
        )

    async def _see_recovery(self, name: str, report: FaultReport) -> None:
        """Wait until the node has reached the others, and its signature stands under a block above that."""
        stage, client = self._stage, self._stage.clients[name]
        address = next(each.address for each in stage.roster if each.name == name)
        looked, own = report.height_after, 0
        with trio.move_on_after(RECOVERY_S):
            while True:
                try:
                    own = int((await client.status())["height"])
                except NodeUnreachable:
                    own = 0
                newest = await self._height()
                while looked < newest and not report.signed_height:
                    looked += 1
                    if address in (await stage.observer.block(looked))["signers"]:
                        report.signed_height = looked
                if report.signed_height and own >= report.height_after:
                    return
                await trio.sleep(0.2)
        raise StepFailed(
            f"{name} did not take part again within {RECOVERY_S:.0f} s: it is at height {own}, the others at {looked},"
            f" and {f'it signed block {report.signed_height}' if report.signed_height else 'it signed none'}",
            name,
        )
