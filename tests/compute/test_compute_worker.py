from __future__ import annotations

import fcntl
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from deepshard.compute.client import ComputeClient, ComputeJobFailed, WorkerDied, run_job
from deepshard.compute.jobs import (
    ChatMessage,
    Generate,
    GenerateResult,
    ImportModel,
    JobResult,
    ModelRef,
    Progress,
    ScoreTexts,
    TextScores,
)
from deepshard.compute.worker import lease
from deepshard.errors import LocalError
from deepshard.testing.virtual_time import pass_time

PROSE = "The people of the valley have always lived with the river, and they know when the water will come."
GARBAGE = "zq vv 8837 click BUY now xx kkkk 0000 ;;; winner winner qqq zzz 9981 @@ ## ~~ vv8 kq"


def pid_of(client: ComputeClient) -> int | None:
    """A call, since a type checker takes what it has seen of a property for lasting."""
    return client.pid


def generate(model: ModelRef, *, max_tokens: int = 12, temperature: float = 0.0, seed: int = 7) -> Generate:
    question = ChatMessage(role="user", content="The river begins as a")
    return Generate(model=model, messages=(question,), max_tokens=max_tokens, temperature=temperature, seed=seed)


def score(model: ModelRef, *texts: str) -> ScoreTexts:
    return ScoreTexts(model=model, texts=texts, tokens_max=64, perturbations=2, seed=bytes(32))


async def test_a_sequence_of_jobs_on_one_worker(tiny: ModelRef, tmp_path: Path, nursery: trio.Nursery) -> None:
    client = ComputeClient(threads=1, log_path=tmp_path / "worker.log")
    await nursery.start(client.run)
    assert pid_of(client) is None
    steps: list[Progress] = []

    async def note(step: Progress) -> None:
        await trio.lowlevel.checkpoint()
        steps.append(step)

    answer = await client.submit(generate(tiny), note)
    assert isinstance(answer, GenerateResult)
    assert answer.text == "".join(step.text for step in steps)
    assert 0 < answer.completion_tokens <= 12
    first_pid = pid_of(client)
    assert answer == await client.submit(generate(tiny))
    sampled = await client.submit(generate(tiny, temperature=2.0))
    assert sampled == await client.submit(generate(tiny, temperature=2.0))
    assert sampled != await client.submit(generate(tiny, temperature=2.0, seed=8))

    scores = await client.submit(score(tiny, PROSE, GARBAGE, ""))
    assert isinstance(scores, TextScores)
    prose, garbage, empty = scores.scores
    assert prose.log_prob > garbage.log_prob + 0.5
    assert prose.conditional_curvature > garbage.conditional_curvature + 2
    assert prose.perturbation_curvature > 0.1
    assert (empty.tokens, empty.log_prob) == (0, 0.0)

    alone = await client.submit(score(tiny, PROSE))
    assert isinstance(alone, TextScores)
    assert alone.scores[0].log_prob == prose.log_prob
    assert alone.scores[0].conditional_curvature == prose.conditional_curvature

    with pytest.raises(ComputeJobFailed, match="no such model: /nowhere") as failed:
        await client.submit(ImportModel(source="/nowhere", store=str(tmp_path)))
    assert failed.value.kind == "UsageError"
    with pytest.raises(ComputeJobFailed, match=r"manifest .* is not in the store"):
        await client.submit(score(ModelRef(manifest=bytes(32), store=str(tmp_path)), PROSE))
    assert pid_of(client) == first_pid
    nursery.cancel_scope.cancel()


async def test_a_killed_worker_fails_its_job_and_the_next_one_works(tiny: ModelRef, nursery: trio.Nursery) -> None:
    client = ComputeClient(threads=1)
    await nursery.start(client.run)
    killed: list[int] = []

    def kill(_: Progress) -> None:
        pid = pid_of(client)
        if pid is not None and not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(WorkerDied, match="SIGKILL") as died:
        await client.submit(generate(tiny, max_tokens=200), kill)
    assert died.value.exit_status == -signal.SIGKILL
    assert pid_of(client) is None
    answer = await client.submit(generate(tiny))
    assert isinstance(answer, GenerateResult)
    assert pid_of(client) not in {None, killed[0]}

    # A caller that is cancelled takes its job with it.
    with trio.CancelScope() as scope:
        await client.submit(generate(tiny, max_tokens=900), lambda step: scope.cancel() if step.text else None)
    assert scope.cancelled_caught
    await trio.testing.wait_all_tasks_blocked()
    assert pid_of(client) is None
    nursery.cancel_scope.cancel()


async def test_a_worker_that_cannot_start_says_why(nursery: trio.Nursery, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no torch here >&2\nexit 3\n")
    broken.chmod(0o700)
    client = ComputeClient(threads=1, python=str(broken))
    await nursery.start(client.run)
    with pytest.raises(WorkerDied, match="exit status 3; its last words: no torch here") as died:
        await client.submit(score(ModelRef(manifest=bytes(32), store="."), PROSE))
    assert died.value.exit_status == 3
    nursery.cancel_scope.cancel()


def refuser(folder: Path) -> str:
    """A stand-in for Python whose worker refuses each job with the job's name."""
    script = folder / "python"
    script.write_text(
        f"#!{sys.executable}\n"
        "import socket, sys\n"
        "from deepshard.compute.framing import body_length, pack, unpack_job\n"
        "from deepshard.compute.jobs import JobFailed\n"
        "link = socket.socket(fileno=int(sys.argv[4])).makefile('rwb')\n"
        "while header := link.read(4):\n"
        "    job = unpack_job(link.read(body_length(header)))\n"
        "    link.write(pack(JobFailed(kind='Refused', message=type(job).__name__)))\n"
        "    link.flush()\n"
    )
    script.chmod(0o700)
    return str(script)


async def test_an_answer_to_a_person_goes_before_waiting_work(nursery: trio.Nursery, tmp_path: Path) -> None:
    client = ComputeClient(threads=1, python=refuser(tmp_path))
    model = ModelRef(manifest=bytes(32), store=".")
    order: list[str] = []

    async def ask(job: ScoreTexts | Generate) -> None:
        with pytest.raises(ComputeJobFailed) as refused:
            await client.submit(job)
        order.append(refused.value.message)

    async with trio.open_nursery() as askers:
        for job in (score(model, PROSE), score(model, GARBAGE), generate(model)):
            askers.start_soon(ask, job)
            await trio.testing.wait_all_tasks_blocked()
        await nursery.start(client.run)
    assert order == ["Generate", "ScoreTexts", "ScoreTexts"]
    nursery.cancel_scope.cancel()


async def test_an_idle_worker_is_ended(
    nursery: trio.Nursery, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    client = ComputeClient(threads=1, python=refuser(tmp_path), idle_s=5.0)
    await nursery.start(client.run)
    with pytest.raises(ComputeJobFailed):
        await client.submit(score(ModelRef(manifest=bytes(32), store="."), PROSE))
    await pass_time(4.9)
    assert pid_of(client) is not None
    await pass_time(0.2)
    assert pid_of(client) is None
    nursery.cancel_scope.cancel()


async def test_a_prewarmed_worker_is_there_before_the_job_and_does_it(nursery: trio.Nursery, tmp_path: Path) -> None:
    client = ComputeClient(threads=1, python=refuser(tmp_path))
    client.prewarm()
    await nursery.start(client.run)
    await trio.testing.wait_all_tasks_blocked()
    started = pid_of(client)
    assert started is not None
    client.prewarm()
    await trio.testing.wait_all_tasks_blocked()
    assert pid_of(client) == started
    with pytest.raises(ComputeJobFailed):
        await client.submit(score(ModelRef(manifest=bytes(32), store="."), PROSE))
    assert pid_of(client) == started
    nursery.cancel_scope.cancel()


def test_a_heavy_job_waits_for_a_free_lease(tiny: ModelRef, tmp_path: Path) -> None:
    file = tmp_path / "lease"
    handle = os.open(file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    stages: list[str] = []

    def release(step: Progress) -> None:
        stages.append(step.stage)
        if step.stage == "waiting" and stages.count("waiting") == 1:
            os.close(handle)

    result: JobResult = run_job(score(tiny, PROSE), release, threads=1, leases=[str(file)])
    assert isinstance(result, TextScores)
    assert stages[0] == "waiting"
    assert stages[-1] == "score"


def test_a_lease_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="cannot open the lease file"), lease([str(tmp_path / "no" / "lease")], print):
        pass


def test_a_second_lease_is_taken_where_the_first_is_held(tmp_path: Path) -> None:
    files = [str(tmp_path / "one"), str(tmp_path / "two")]
    with lease(files[:1], print), lease(files, print):
        handle = os.open(files[1], os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(handle)
