"""The tiny model, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepshard.compute.client import run_job
from deepshard.compute.jobs import ImportModel, ImportResult, ModelRef


@pytest.fixture(scope="session")
def tiny_import(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportResult, Path]:
    store = tmp_path_factory.mktemp("tiny") / "chunks"
    result = run_job(ImportModel(source="tiny", store=str(store)), threads=2)
    assert isinstance(result, ImportResult)
    return result, store


@pytest.fixture(scope="session")
def tiny(tiny_import: tuple[ImportResult, Path]) -> ModelRef:
    result, store = tiny_import
    return ModelRef(manifest=result.manifest, store=str(store))
