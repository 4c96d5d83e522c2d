"""`deepshard evidence verify`: what a file proves, offline, and how it is said that it proves nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepshard.cli.main import _run
from deepshard.conformance.vectors.document import unspell
from deepshard.primitives import format_address

VECTORS = json.loads((Path(__file__).parents[2] / "protocol-spec/vectors/evidence.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = VECTORS["cases"]
CHAIN: str = VECTORS["chain_id"]


def case_of(name: str) -> dict[str, Any]:
    return next(case for case in CASES if case["name"] == name)


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def run(data: bytes, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "found.evidence"
        path.write_bytes(data)
        monkeypatch.setattr("sys.argv", ["deepshard", "evidence", "verify", str(path), *options])
        code = _run()
        return (code, *capsys.readouterr())

    return run


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_every_vector_ends_with_its_exit_code(verify: Any, case: dict[str, Any]) -> None:
    code, out, err = verify(unspell(case["encoded"]), "--chain", CHAIN, "--json")
    if case["expect"] == "ok":
        shown = json.loads(out)
        accused = shown["convicted"] if "convicted" in shown else [shown["validator"]]
        assert (code, shown["kind"], shown["height"]) == (0, case["kind"], case["height"])
        assert accused == [format_address(bytes.fromhex(address)) for address in case["convicted"]]
        return
    unreadable = case["expect"]["error"] in {"MalformedMessage", "OversizedMessage"}
    assert (code, out, err.count("\n")) == (2 if unreadable else 1, "", 1)
    assert err.startswith("deepshard: ")


def test_what_is_proven_is_shown_line_by_line(verify: Any) -> None:
    case = case_of("two prevotes")
    code, out, err = verify(unspell(case["encoded"]), "--chain", CHAIN)
    assert (code, err) == (0, "")
    assert dict(line.split() for line in out.splitlines()) == {
        "kind": "duplicate-vote",
        "validator": format_address(bytes.fromhex(case["convicted"][0])),
        "height": "7",
        "round": "2",
        "chain_id": CHAIN,
    }


def test_evidence_of_one_network_proves_nothing_on_another(verify: Any) -> None:
    code, out, err = verify(unspell(case_of("two prevotes")["encoded"]), "--chain", "elsewhere")
    assert (code, out) == (1, "")
    assert "duplicate-vote at height 7" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "one of --chain ID and --genesis FILE"),
        (("--chain", CHAIN, "--genesis", "g.json"), "one of --chain ID and --genesis FILE"),
        (("--genesis", "/nowhere/g.json"), "cannot read the genesis file /nowhere/g.json"),
    ],
)
def test_the_network_has_to_be_named(verify: Any, options: tuple[str, ...], message: str) -> None:
    code, out, err = verify(unspell(case_of("two prevotes")["encoded"]), *options)
    assert (code, out) == (2, "")
    assert message in err


def test_a_file_that_is_not_there_is_said_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["deepshard", "evidence", "verify", "/nowhere/x.evidence", "--chain", CHAIN])
    assert _run() == 2
    assert capsys.readouterr().err == "deepshard: there is no file /nowhere/x.evidence\n"
