from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from deepshard.devnet.__main__ import check_recipe
from deepshard.devnet.narration import Grid, PlainNarrator
from deepshard.devnet.observe import account_total, find_equivocations, find_scorers, note_supply
from deepshard.devnet.plans import REAL, TINY, params_for, plan_for, probe_texts, read_text
from deepshard.devnet.report import BalanceReport, FaultReport, Report, TrainerReport, report_grids, write_report
from deepshard.devnet.roster import make_roster
from deepshard.devnet.story import tell
from deepshard.errors import UsageError
from deepshard.ledger.params import LoraRecipe
from deepshard.primitives import UNITS_PER_TOKEN

NAMES = {"ds1a": "trainer-1", "ds1i": "informant"}


def test_report_json_has_every_promised_field(tmp_path: Path) -> None:
    write_report(Report(model="tiny"), tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    promised = (
        "accepted rejected trainers supply_conserved weights_root_before weights_root_after logprob_before "
        "logprob_after licence download answers phase_seconds peak_memory_bytes processes faults bonds audits "
        "equivocations scored_by"
    )
    assert set(promised.split()) <= set(written)
    assert written["model"] == "tiny"
    assert written["download"]["bytes_by_peer"] == {}
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_tables_show_amounts_in_tokens() -> None:
    report = Report(
        trainers=[
            TrainerReport(
                name="trainer-4",
                address="ds1x",
                honest=False,
                outcome="slashed",
                reason="dissimilar",
                amount=-100 * UNITS_PER_TOKEN,
            )
        ],
        balances={"informant": BalanceReport(address="ds1i", before=UNITS_PER_TOKEN, after=3 * UNITS_PER_TOKEN // 2)},
    )
    grids = {grid.title: grid.rows for grid in report_grids(report)}
    assert grids["Trainers (round )"] == (("trainer-4", "dishonest", "slashed", "dissimilar", "-100"),)
    assert grids["Tokens (balance and stake)"] == (("informant", "1", "1.5", "+0.5", "ds1i"),)


def test_faults_have_a_table_of_their_own() -> None:
    assert "Faults" not in {grid.title for grid in report_grids(Report())}
    stopped = FaultReport(kind="stop", node="validator-2", phase="voting", seconds=20)
    never = [grid.rows for grid in report_grids(Report(faults=[stopped])) if grid.title == "Faults"]
    assert never == [(("validator-2", "stop", "never", "0 -> 0", "-", "-"),)]
    stopped.began_in, stopped.height_before, stopped.height_after = "voting", 10, 21
    stopped.recovery_s, stopped.signed_height = 0.74, 22
    (rows,) = [grid.rows for grid in report_grids(Report(faults=[stopped])) if grid.title == "Faults"]
    assert rows == (("validator-2", "stop", "voting", "10 -> 21", "0.7 s", "22"),)


def test_a_log_that_tells_of_two_signatures_is_found(tmp_path: Path) -> None:
    roster = make_roster(tmp_path, TINY, dishonest=0)
    for each in roster:
        each.home.mkdir()
        (each.home / "node.log").write_text('{"event": "block.committed", "height": 3}\nnot JSON\n')
    assert find_equivocations(roster) == []
    seen = {"event": "consensus.equivocation", "validator": roster[2].key.address.hex(), "height": 7}
    with (roster[0].home / "node.log").open("a") as log:
        log.write(json.dumps(seen) + "\n")
    assert find_equivocations(roster) == ["validator-1 saw validator-3 sign twice at height 7"]


def test_the_report_names_what_scored_by_the_validators_logs(tmp_path: Path) -> None:
    roster = make_roster(tmp_path, TINY, dishonest=0)[:2]
    for each in roster:
        each.home.mkdir()
        (each.home / "node.log").write_text('{"event": "scorer.reported", "round": 1, "scored_by": ""}\nnot JSON\n')
    with (roster[1].home / "node.log").open("a") as log:
        log.write(json.dumps({"event": "scorer.reported", "round": 2, "scored_by": "op (cpu, packed)"}) + "\n")
    assert find_scorers(roster) == {"validator-2": "op (cpu, packed)"}
    rows = {grid.title: grid.rows for grid in report_grids(Report(scored_by=find_scorers(roster)))}["Facts"]
    assert ("validators scored through", "op (cpu, packed): validator-2") in rows


def test_supply_is_conserved_only_if_accounts_and_treasury_add_up() -> None:
    supply = {"genesis": 1000, "minted": 50, "burned": 10, "treasury": 40, "conserved": True}
    verdicts = []
    for answer, accounts in ((supply, 1000), (supply, 999), ({**supply, "conserved": False}, 1000)):
        report = Report()
        note_supply(report, answer, accounts)
        verdicts.append((report.supply_conserved, report.supply_held))
    assert verdicts == [(True, 1040), (False, 1039), (False, 1040)]


def test_an_accounts_total_counts_all_stake() -> None:
    assert account_total({"balance": 1, "locked": 20, "unbonding": 300, "bonded": 4000, "nonce": 7}) == 4321


def test_receipts_become_sentences() -> None:
    slash = {"seq": 9, "height": 40, "kind": "trainer-slash", "account": "ds1a", "amount": -100 * UNITS_PER_TOKEN}
    assert tell({**slash, "reason": "dissimilar"}, NAMES) == (
        "height 40: trainer-1 loses its stake of 100 tokens (dissimilar)"
    )
    rejected = {
        "height": 12,
        "kind": "proposal-rejected",
        "account": "ds1i",
        "amount": -30 * UNITS_PER_TOKEN,
        "facts": {"accept_bp": 0, "threshold_bp": 5500},
    }
    assert tell(rejected, NAMES) == (
        "height 12: a proposal of informant is rejected: 0.0 % of the stake in favour, 55.0 % needed, "
        "30 tokens of its stake are lost"
    )
    assert tell({**slash, "kind": "fee"}, NAMES) is None


def test_plain_lines_are_aligned_and_progress_is_rationed() -> None:
    stream = io.StringIO()
    narrator = PlainNarrator(stream)
    narrator.waiting("1 of 9")
    narrator.waiting("2 of 9")
    narrator.show(Grid("Sizes", ("name", "n"), (("a", "1"), ("longer", "22"))))
    lines = stream.getvalue().splitlines()
    assert [line for line in lines if "of 9" in line] == [lines[0]]
    assert lines[2:] == ["Sizes", "  name    n", "  a       1", "  longer  22"]


def test_plans_make_valid_parameters() -> None:
    assert plan_for("tiny") is TINY
    assert plan_for("smollm2") is plan_for("some/model") is REAL
    params = params_for(TINY)
    assert params.replication == 3
    lora = [params_for(plan_for(model, "lora")).recipe for model in ("tiny", "smollm2")]
    assert [recipe.lora for recipe in lora] == [LoraRecipe(rank=8, alpha=16)] * 2
    assert [recipe.learning_rate_nano for recipe in lora] == [10_000_000, 1_000_000]
    with pytest.raises(UsageError, match="unknown recipe 'half'"):
        check_recipe("half")


def test_texts_are_distinct_and_of_the_intended_size() -> None:
    pools = probe_texts()
    assert {name: len(texts) for name, texts in pools.items()} == {"heldout": 4, "general": 4, "canaries": 2}
    every = [text for texts in pools.values() for text in texts]
    every += [read_text(name) for name in ("sound", "worthless", "unapproved-1", "unapproved-2")]
    assert len(set(every)) == len(every) == 14
    paragraphs = read_text("sound").split("\n\n")
    assert len(paragraphs) == 6
    assert all(40 <= len(paragraph.split()) <= 60 for paragraph in paragraphs)
    assert all(35 <= len(text.split()) <= 60 for texts in pools.values() for text in texts)
