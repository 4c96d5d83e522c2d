"""Reading safetensors in pieces, and what a stranger's header may not say."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from synthetic import SMALL, write_model, write_safetensors

from deepshard.compute.sources import SafetensorsSource, open_safetensors
from deepshard.errors import LocalError, UsageError
from deepshard.shards.layout import row_elements, tensor_rows
from deepshard.shards.manifest import TensorSlice
from deepshard.shards.rounding import to_bf16

TWO = {"a": ("BF16", (4, 6)), "b": ("F32", (3,))}


@given(arrays.arrays(np.uint32, st.integers(1, 40), elements=st.integers(0, 2**32 - 1)))
def test_rounding_to_bf16_is_torchs_bit_for_bit(bits: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> None:
    values = bits.view(np.float32)
    expected = torch.from_numpy(values.copy()).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    numbers = ~np.isnan(values)
    ours = to_bf16(values)
    assert (ours[numbers] == expected[numbers]).all()
    assert (ours[~numbers] == 0x7FC0).all()


def test_every_piece_of_every_tensor_is_what_the_file_holds(tmp_path: Path) -> None:
    data = write_model(tmp_path / "model")
    source = open_safetensors(tmp_path / "model")
    assert [entry.name for entry in source.tensors] == sorted(SMALL)
    assert source.files.keys() == {"config.json", "tokenizer.json"}
    for number, entry in enumerate(source.tensors):
        rows, columns = tensor_rows(entry), row_elements(entry)
        whole = (
            np.frombuffer(data[entry.name], np.uint8).reshape(rows, -1) if columns else np.empty((rows, 0), np.uint8)
        )
        item = whole.shape[1] // max(1, columns)
        assert (source.read(TensorSlice(number, 0, rows)) == whole).all()
        if rows > 2 and columns > 3:
            assert (source.read(TensorSlice(number, 1, 2)) == whole[1:3]).all()
            assert (source.read(TensorSlice(number, 1, 2, 2, 1)) == whole[1:3, 2 * item : 3 * item]).all()
    source.close()


def test_bands_of_rows_too_many_to_hold_are_read_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_safetensors(tmp_path / "m.safetensors", {"w": ("I8", (8, 1000))})["w"]
    source = open_safetensors(tmp_path / "m.safetensors")
    whole = np.frombuffer(data, np.uint8).reshape(8, 1000)
    assert (source.read(TensorSlice(0, 2, 5, 100, 50)) == whole[2:7, 100:150]).all()
    monkeypatch.setattr("deepshard.compute.sources.GATHER_BYTES_MAX", 4999)
    assert (source.read(TensorSlice(0, 2, 5, 100, 50)) == whole[2:7, 100:150]).all()
    source.close()


def test_floats_are_rounded_where_bf16_is_asked_for_and_the_configuration_says_so(tmp_path: Path) -> None:
    data = write_model(tmp_path / "model")
    plain, rounded = (open_safetensors(tmp_path / "model", as_bf16=flag) for flag in (False, True))
    kinds = {entry.name: entry.dtype for entry in rounded.tensors}
    assert {kinds[name] for name, (kind, _) in SMALL.items() if kind != "I8"} == {"bf16"}
    assert kinds["quantised"] == "i8"
    number = sorted(SMALL).index("model.layers.0.mlp.up_proj.weight")
    values = torch.frombuffer(bytearray(data["model.layers.0.mlp.up_proj.weight"]), dtype=torch.float16)
    expected = values.to(torch.bfloat16).view(torch.uint8).numpy()
    assert (rounded.read(TensorSlice(number, 0, 1024)).reshape(-1) == expected).all()
    assert json.loads(rounded.files["config.json"]) == {"model_type": "llama", "torch_dtype": "bfloat16"}
    assert plain.files["config.json"] == (tmp_path / "model" / "config.json").read_bytes()
    assert plain.identity != rounded.identity
    plain.close()
    rounded.close()


def test_another_content_or_time_of_a_file_is_another_source(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"

    def identity() -> bytes:
        source = open_safetensors(path)
        source.close()
        return source.identity

    write_safetensors(path, TWO)
    first = identity()
    assert identity() == first
    write_safetensors(path, TWO, seed=1)
    assert identity() != first


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"b": {"data_offsets": [0, 12]}}, "is broken: the bytes of tensor .* overlap"),
        ({"b": {"data_offsets": [48, 60], "shape": [4]}}, "needs 16 bytes for its shape, its place is 48 to 60"),
        ({"a": {"shape": [4, 2**40]}}, "not described as it has to be"),
        ({"a": {"shape": [2**31 - 1] * 4}}, "needs 42535295785889145473997720539375861762 bytes for its shape"),
        ({"a": {"shape": [-4, -6]}}, "not described as it has to be"),
        ({"b": {"data_offsets": [2**40, 2**40 + 12]}}, "its place is 1099511627776 to"),
        ({"b": {"data_offsets": [-12, 0]}}, "its place is -12 to 0"),
        ({"b": {"data_offsets": [48]}}, "not described as it has to be"),
        ({"b": {"dtype": "I64"}}, "is of type I64, which isn't stored: only BF16, F16, F32, I8 are"),
        ({"b": {"dtype": 5}}, "not described as it has to be"),
        ({"a": {"shape": [4, 6, *[1] * 7]}}, "has 9 dimensions"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(
    changes: dict[str, dict[str, object]], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    write_safetensors(path, TWO, changes=changes)
    with pytest.raises(UsageError, match=message) as caught:
        open_safetensors(path)
    assert "\n" not in str(caught.value)


def _file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is 0 bytes: no safetensors file"),
        (_file(b"{}", length=2**63), "declares a header of 9223372036854775808 bytes, and is 10 long"),
        (_file(b"not json"), "is no JSON"),
        (_file(b"[" * 100_000), "is no JSON"),
        (_file(b"[]"), "is no JSON object"),
        (_file(b'{"a": {}, "a": {}}'), "lists a name twice"),
        (
            _file(b'{"../../etc/passwd": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}', b"x"),
            "'../../etc/passwd'",
        ),
        (_file(b'{"": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}', b"x"), "not described"),
        (
            _file(b'{"a": {"dtype": "I8", "shape": [1], "data_offsets": [0, 1]}}', b"xy"),
            "its tensors end at byte 1 of 2",
        ),
        (_file(b'{"a": {"dtype": "I8", "shape": [1], "data_offsets": [1, 2]}}', b"xy"), "leave a gap"),
    ],
)
def test_a_file_that_is_no_safetensors_is_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    with pytest.raises(UsageError, match=message) as caught:
        open_safetensors(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../m.safetensors"}}, "no name of a file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "no name of a file beside it"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.safetensors is missing"),
        (
            {"weight_map": {"a": "m.safetensors", "c": "m.safetensors"}},
            "1 tensors of .* are in none of its files, such as c",
        ),
        ({"weight_map": {}}, "lists nothing"),
        ({}, "has no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(
    index: dict[str, object], message: str, tmp_path: Path
) -> None:
    write_safetensors(tmp_path / "m.safetensors", TWO)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=message):
        open_safetensors(tmp_path)


def test_a_tensor_in_two_files_and_a_file_cut_short_are_named(tmp_path: Path) -> None:
    for name in ("x.safetensors", "y.safetensors"):
        write_safetensors(tmp_path / name, TWO)
    with pytest.raises(UsageError, match=r"tensor a is in both x\.safetensors and y\.safetensors"):
        open_safetensors(tmp_path)
    source = SafetensorsSource([tmp_path / "x.safetensors"], None)
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 1)
    with pytest.raises(LocalError, match="has become shorter"):
        source.read(TensorSlice(1, 0, 3))
    source.close()
