"""The command as people run it: exit codes, one-line errors, and answers of a served node."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from deepshard.api.app import create_app, serve
from deepshard.errors import LocalError, UsageError
from deepshard.testing.backend import ALICE, PROPOSAL, ScriptedBackend

TOKEN = "s3cret"
Result = tuple[int, str, str]


@dataclass
class Command:
    home: Path

    async def __call__(self, *arguments: str, stdin: bytes = b"", **variables: str) -> Result:
        done = await trio.run_process(
            [sys.executable, "-m", "deepshard.cli.main", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={"PATH": os.environ["PATH"], "HOME": str(self.home), "DEEPSHARD_HOME": str(self.home), **variables},
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
async def backend(nursery: trio.Nursery, command: Command) -> ScriptedBackend:
    backend = ScriptedBackend()
    address = await nursery.start(serve, create_app(backend, token=TOKEN, serve_chat=True), "127.0.0.1:0")
    (command.home / "api.json").write_text(json.dumps({"http": address, "token": TOKEN}))
    return backend


def assert_complaint(result: Result, code: int, *parts: str) -> None:
    """One line on stderr with all the parts, nothing on stdout."""
    returncode, out, err = result
    assert (returncode, out) == (code, ""), err
    assert err.startswith("deepshard: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


async def test_help_names_the_commands(command: Command) -> None:
    code, out, _ = await command("--help")
    assert code == 0
    for name in ("status", "propose", "vote", "balance", "transfer", "proposals", "rounds", "explain", "chat"):
        assert name in out
    assert {"keys", "light"} <= set(out.split())


async def test_wrong_command_lines_are_one_line(command: Command) -> None:
    assert_complaint(await command("--bogus"), 2, "--bogus")
    assert_complaint(await command("vote", PROPOSAL), 2, "--accept and --reject")


async def test_a_node_that_is_not_running_is_said_so(command: Command) -> None:
    assert_complaint(await command("status"), 2, f"no node is running in {command.home}", "--home")
    (command.home / "api.json").write_text('{"http": "127.0.0.1:1", "token": "x"}')
    assert_complaint(await command("status"), 2, "no node answers at http://127.0.0.1:1")
    (command.home / "api.json").write_text("[]")
    assert_complaint(await command("status"), 2, "api.json is damaged")


async def test_a_url_needs_its_token(command: Command, backend: ScriptedBackend) -> None:
    address = json.loads((command.home / "api.json").read_text())["http"]
    assert_complaint(await command("proposals", "--node", address), 2, "DEEPSHARD_TOKEN")
    refused = await command("proposals", "--node", address, DEEPSHARD_TOKEN="wrong")
    assert_complaint(refused, 2, "Authorization: Bearer TOKEN")
    code, _, _ = await command("proposals", "--node", f"http://{address}/", DEEPSHARD_TOKEN=TOKEN)
    assert (code, backend.calls) == (0, [("proposals", None)])


async def test_blame_decides_the_exit_code(command: Command, backend: ScriptedBackend) -> None:
    backend.failure = UsageError("no such round: round-9")
    assert_complaint(await command("explain", "round-9"), 2, "no such round: round-9")
    backend.failure = LocalError("the disk\nis full")
    assert_complaint(await command("explain", "round-9"), 1, "the disk is full")
    assert backend.calls == [("explain", "round-9")] * 2


async def test_tables_are_plain_lines_off_a_terminal(command: Command, backend: ScriptedBackend) -> None:
    code, out, err = await command("proposals")
    assert (code, err) == (0, "")
    heading, row = out.splitlines()
    assert heading.split() == ["PROPOSAL", "STATUS", "STAKE", "SEGMENTS", "ACCEPT", "THRESHOLD", "TITLE"]
    assert row.split(maxsplit=6) == [PROPOSAL, "accepted", "50", "1", "80%", "55%", "Moons [red]\ufffd[31m"]
    assert heading.index("STATUS") == row.index("accepted")
    code, out, _ = await command("rounds")
    assert out.splitlines()[1].split() == ["1", "closed", ALICE, "10", "accepted", "medoid", "-1.5"]


async def test_the_own_balance_is_shown_in_tokens(command: Command, backend: ScriptedBackend) -> None:
    code, out, _ = await command("balance")
    assert code == 0
    assert dict(line.split() for line in out.splitlines()) == {
        "address": ALICE,
        "balance": "12.5",
        "locked": "0",
        "unbonding": "0",
        "bonded": "0.000000007",
        "nonce": "2",
    }
    assert [name for name, _ in backend.calls] == ["status", "account"]


async def test_json_is_the_nodes_answer(command: Command, backend: ScriptedBackend) -> None:
    code, out, _ = await command("balance", ALICE, "--json")
    assert code == 0
    assert json.loads(out) == await backend.account(ALICE)
    code, out, _ = await command("status", "--json")
    assert json.loads(out) == await backend.status()


async def test_acts_reach_the_node_in_base_units(command: Command, backend: ScriptedBackend, tmp_path: Path) -> None:
    (tmp_path / "facts.md").write_text("\ufeffThe moon turns.\n", encoding="utf-8")
    runs = [
        ("propose", str(tmp_path / "facts.md"), "--stake", "50.5", "--licence", "CC0-1.0"),
        ("vote", PROPOSAL, "--reject", "--harmful", "--scores", "0.9,1,50%,0,.25;1,1,1,1,1", "--predict", "62.5%"),
        ("transfer", ALICE, "0.000000001"),
        ("licence", "buy", "--max", "3"),
        ("licence", "buy"),
    ]
    for arguments in runs:
        code, _, err = await command(*arguments)
        assert (code, err) == (0, "")
    text = "\ufeffThe moon turns.\n"
    assert json.loads(json.dumps(backend.calls)) == [
        ["propose", {"text": text, "stake": 50_500_000_000, "title": "facts", "language": "en", "licence": "CC0-1.0"}],
        [
            "vote",
            {
                "proposal": PROPOSAL,
                "accept": False,
                "harmful": True,
                "scores": [[9000, 10_000, 5000, 0, 2500], [10_000] * 5],
                "predicted_accept_bp": 6250,
            },
        ],
        ["transfer", {"to": ALICE, "amount": 1}],
        ["buy_licence", {"price_max": 3 * 10**9}],
        ["buy_licence", {"price_max": None}],
    ]


async def test_bad_values_never_leave_the_command(command: Command, backend: ScriptedBackend) -> None:
    assert_complaint(await command("transfer", ALICE, "-1"), 2)
    assert_complaint(await command("transfer", "bob", "1"), 2, "is not an address")
    assert_complaint(await command("vote", PROPOSAL, "--accept", "--predict", "101%"), 2, "is not a share")
    assert_complaint(await command("vote", PROPOSAL, "--accept", "--scores", "1,1"), 2, "five scores")
    assert backend.calls == []


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"PK\x03\x04\x00\x00", "is binary"),
        (b"caf\xe9", "is not UTF-8 text (byte 3)"),
        (b"a\x1b[31m", "control character U+001B"),
        (b"a" * (64 * 4096 + 4), "is larger than 262144 bytes"),
    ],
    ids=["missing", "empty", "white", "binary", "latin", "escape", "large"],
)
async def test_texts_that_cannot_be_proposed(
    command: Command, backend: ScriptedBackend, content: bytes | None, complaint: str
) -> None:
    path = command.home / "text"
    if content is not None:
        path.write_bytes(content)
    assert_complaint(await command("propose", str(path), "--stake", "1"), 2, str(path), complaint)
    assert backend.calls == []


async def test_chat_prints_the_pieces_as_they_come(command: Command, backend: ScriptedBackend) -> None:
    backend.pieces.insert(1, {"text": "\x1b[2J\n"})
    code, out, err = await command("chat", "What turns?", "--max-tokens", "9", "--temperature", "0", "--seed", "4")
    assert (code, out, err) == (0, "The moon \ufffd[2J\nturns.\n", "")
    request = backend.calls[-1][1]
    assert (request["max_tokens"], request["temperature"], request["seed"]) == (9, 0.0, 4)


async def test_a_broken_answer_is_an_error(command: Command, backend: ScriptedBackend) -> None:
    backend.pieces[1] = LocalError("the worker died")
    code, out, err = await command("chat", "What turns?")
    assert (code, out, err) == (1, "The moon ", "deepshard: the worker died\n")


async def test_a_reader_that_leaves_is_no_traceback(command: Command, backend: ScriptedBackend) -> None:
    backend.pieces[:1] = [{"text": "x" * 100_000}] * 3
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = await trio.run_process(
            [sys.executable, "-m", "deepshard.cli.main", "chat", "?"],
            stdout=writer,
            capture_stderr=True,
            check=False,
            env={"PATH": os.environ["PATH"], "DEEPSHARD_HOME": str(command.home)},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


async def test_evidence_is_listed_and_reported(command: Command, backend: ScriptedBackend, tmp_path: Path) -> None:
    code, out, err = await command("evidence", "list")
    assert (code, err) == (0, "")
    heading, held, convicted = out.splitlines()
    assert heading.split() == ["STATE", "KIND", "VALIDATOR", "HEIGHT", "PUNISHED", "SLASHED", "JAILED", "UNTIL"]
    assert held.split() == ["held", "amnesia", ALICE, "12", "-", "-", "-"]
    assert convicted.split() == ["jailed", "duplicate-vote", ALICE, "7", "9", "50", "109"]
    vectors = json.loads(
        (Path(__file__).parents[2] / "protocol-spec/vectors/evidence.json").read_text(encoding="utf-8")
    )
    encoded = next(case["encoded"] for case in vectors["cases"] if case["name"] == "two prevotes")
    (tmp_path / "x.evidence").write_bytes(bytes.fromhex(encoded))
    code, out, err = await command("evidence", "report", str(tmp_path / "x.evidence"))
    assert (code, out.split(), err) == (0, ["transactions", "66" * 32], "")
    code, out, err = await command("evidence", "unjail")
    assert (code, out.split(), err) == (0, ["transaction", "77" * 32], "")
    assert backend.calls == [("evidence", None), ("report_evidence", {"evidence": encoded}), ("unjail", None)]
    (tmp_path / "x.evidence").write_bytes(b"junk")
    assert_complaint(await command("evidence", "report", str(tmp_path / "x.evidence")), 2, "is no file of evidence")
