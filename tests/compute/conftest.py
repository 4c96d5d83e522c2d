"""The tiny model, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepshard.compute.importing import import_model
from deepshard.compute.jobs import ImportModel, ImportResult, ModelRef


@pytest.fixture(scope="session")
def tiny_import(tmp_path_factory: pytest.TempPathFactory) -> tuple[ImportResult, Path]:
    store = tmp_path_factory.mktemp("tiny") / "chunks"
    torch.set_num_threads(1)
    result = import_model(ImportModel(source="tiny", store=str(store)), lambda _: None)
    return result, store


@pytest.fixture(scope="session")
def tiny(tiny_import: tuple[ImportResult, Path]) -> ModelRef:
    result, store = tiny_import
    return ModelRef(manifest=result.manifest, store=str(store))
