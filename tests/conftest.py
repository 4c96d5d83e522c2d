"""What all tests share: how Hypothesis draws, which files begin, and the tiny model."""

from __future__ import annotations

import gc
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:  # a test that needs no torch doesn't load it
    from deepshard.compute.jobs import ImportResult, ModelRef

# No test fails for being slow: a busy machine is no fault. What else holds (such as CI's fixed seed) stays.
settings.register_profile("patient", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

HERE = Path(__file__).parent
LONGEST = (
    "devnet/test_devnet_tiny.py",
    "conformance/test_conformance_mutants.py",
    "node/test_node_evidence.py",
    "simulate/test_simulate_runs.py",
    "bench/test_bench_consensus.py",
    "node/test_node_process.py",
    "cli/test_cli_light.py",
    "durability/test_durability_sweep.py",
    "compute/test_compute_worker.py",
    "bench/test_bench_kernels.py",
    "gossip/test_gossip_sparing.py",
    "examples/test_examples_light_client.py",
)
"""Files that take longest, in the order in which several test processes take them: what is long must not come last."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests with the garbage collector off, which saves 40 percent, and never look through them again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Longest files first."""
    places = {HERE / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def tiny_import(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportResult, Path]:
    """The tiny model, made once for all tests of a process."""
    import torch  # noqa: PLC0415

    from deepshard.compute.importing import import_model  # noqa: PLC0415
    from deepshard.compute.jobs import ImportModel  # noqa: PLC0415

    store = tmp_path_factory.mktemp("tiny") / "chunks"
    torch.set_num_threads(1)
    result = import_model(ImportModel(source="tiny", store=str(store)), lambda _: None)
    return result, store


@pytest.fixture(scope="session")
def tiny(tiny_import: tuple[ImportResult, Path]) -> ModelRef:
    from deepshard.compute.jobs import ModelRef  # noqa: PLC0415

    result, store = tiny_import
    return ModelRef(manifest=result.manifest, store=str(store))
