"""Readings for the report, taken from what the nodes answer."""

from __future__ import annotations

import json
from collections.abc import Sequence

import trio

from deepshard.devnet.client import Json
from deepshard.devnet.launch import LOG_NAME
from deepshard.devnet.plans import SOUND_TITLE, VALIDATOR_STAKE
from deepshard.devnet.report import AuditReport, BalanceReport, ProposalReport, Report, TrafficReport, TrainerReport
from deepshard.devnet.roster import Participant, Role
from deepshard.devnet.stage import Stage, StepFailed

EQUIVOCATION = '"consensus.equivocation"'
SCORED = '"scorer.reported"'
AGREEMENT_S = 60.0
READINGS_MAX = 20
_ROLES: tuple[Role, ...] = ("validator", "informant", "trainer", "inference")


async def read_balances(stage: Stage) -> dict[str, int]:
    """Total of every account at one height, in base units, by name; also reads the supply of that height.

    Raises:
        StepFailed: the height moved during each of many readings.
    """
    for _ in range(READINGS_MAX):
        before = await stage.observer.status()
        totals = {each.name: account_total(await stage.observer.account(each.address)) for each in stage.roster}
        after = await stage.observer.status()
        if before["height"] == after["height"]:
            note_supply(stage.report, after["supply"], sum(totals.values()))
            return totals
    raise StepFailed(f"blocks came too fast to read {len(stage.roster)} accounts at one height", stage.observer.name)


def account_total(account: Json) -> int:
    """All that belongs to an account, free or staked, in base units."""
    return sum(int(account[part]) for part in ("balance", "locked", "unbonding", "bonded"))


def note_supply(report: Report, supply: Json, accounts_total: int) -> None:
    """Compare the ledger's totals with the sum over accounts; nobody outside the roster can own anything yet."""
    report.supply = {name: int(supply[name]) for name in ("genesis", "minted", "burned", "treasury")}
    report.supply_held = accounts_total + report.supply["treasury"]
    due = report.supply["genesis"] + report.supply["minted"] - report.supply["burned"]
    report.supply_conserved = report.supply_held == due and supply.get("conserved", True) is True


async def observe(stage: Stage, balances_before: dict[str, int]) -> None:
    """Fill the report with the outcome of the epoch.

    Raises:
        StepFailed: validators contradict each other, or reach no common height in time.
        NodeRefused, NodeUnreachable: a node would not answer.
    """
    report = stage.report
    await _read_agreement(stage)
    status = await stage.observer.status()
    report.weights_root_after = str(status["weights_root"])
    await _read_proposals(stage)
    await _read_round(stage)
    after = await read_balances(stage)
    report.balances = {
        each.name: BalanceReport(address=each.address, before=balances_before[each.name], after=after[each.name])
        for each in stage.roster
    }
    for role in _ROLES:
        for each in stage.of_role(role):
            seen = await stage.clients[each.name].status()
            report.bytes_moved[each.name] = TrafficReport(bytes_in=seen["bytes_in"], bytes_out=seen["bytes_out"])
            if role == "inference":
                report.download.light_client_height = int(seen["height"]) if seen["light"] else 0
    await _read_audits(stage)
    await _read_bonds(stage)
    report.scored_by = await trio.to_thread.run_sync(find_scorers, stage.of_role("validator"))
    report.equivocations = await trio.to_thread.run_sync(find_equivocations, stage.roster)


async def _read_bonds(stage: Stage) -> None:
    """What each validator has bonded now, beside what the genesis gave it."""
    for each in stage.of_role("validator"):
        bonded = int((await stage.observer.account(each.address))["bonded"])
        stage.report.bonds[each.name] = BalanceReport(address=each.address, before=VALIDATOR_STAKE, after=bonded)


async def _read_audits(stage: Stage) -> None:
    """What each validator was asked for in the audits that have closed."""
    for audit in await stage.observer.audits():
        for outcome in audit["outcomes"]:
            name = stage.names.get(outcome["holder"], outcome["holder"])
            entry = stage.report.audits.setdefault(name, AuditReport())
            entry.asked += int(outcome["asked"])
            entry.failed += int(outcome["failed"])
            entry.lost += int(outcome["lost"])


def find_equivocations(roster: Sequence[Participant]) -> list[str]:
    """Lines of the nodes' logs in which one says that it saw two signatures of one validator where one may be."""
    found = []
    names = {each.key.address.hex(): each.name for each in roster}
    for each in roster:
        with (each.home / LOG_NAME).open(encoding="utf-8", errors="replace") as log:
            for line in log:
                if EQUIVOCATION in line:
                    entry = json.loads(line)
                    who = names.get(str(entry.get("validator")), str(entry.get("validator")))
                    found.append(f"{each.name} saw {who} sign twice at height {entry.get('height')}")
    return found


def find_scorers(validators: Sequence[Participant]) -> dict[str, str]:
    """Operator and path through which each validator scored, from the line it logs when it has reported."""
    found = {}
    for each in validators:
        with (each.home / LOG_NAME).open(encoding="utf-8", errors="replace") as log:
            for line in log:
                if SCORED in line and (path := json.loads(line).get("scored_by")):
                    found[each.name] = str(path)
    return found


async def _read_agreement(stage: Stage) -> None:
    """Find a height at which every validator's state root was seen; they must all be the same."""
    seen: dict[int, dict[str, str]] = {}
    validators = [each.name for each in stage.of_role("validator")]

    async def ask(name: str) -> None:
        status = await stage.clients[name].status()
        seen.setdefault(int(status["height"]), {})[name] = str(status["state_root"])

    async def look() -> int | None:
        async with trio.open_nursery() as nursery:
            for name in validators:
                nursery.start_soon(ask, name)
        for height, roots in seen.items():
            if len(set(roots.values())) > 1:
                raise StepFailed(f"validators have different states at height {height}: {roots}", max(roots))
        return next((height for height, roots in seen.items() if len(roots) == len(validators)), None)

    height = await stage.until(
        look,
        what="a height seen on every validator",
        timeout_s=AGREEMENT_S,
        facts=lambda: str({name: max(h for h in seen if name in seen[h]) for roots in seen.values() for name in roots}),
    )
    stage.report.agreement_height, stage.report.state_roots = height, seen[height]


async def _read_proposals(stage: Stage) -> None:
    report = stage.report
    lost: dict[str, int] = {}
    for receipt in await stage.observer.receipts(0):
        if str(receipt["kind"]).startswith("proposal-"):
            lost[receipt["subject"]] = lost.get(receipt["subject"], 0) - int(receipt["amount"])
    for each in await stage.observer.proposals():
        status = str(each["status"])
        proposal = ProposalReport(
            id=each["id"],
            title=each["title"],
            expected="accepted" if each["title"] == SOUND_TITLE else "rejected",
            status=status,
            stake=each["stake"],
            slashed=lost.get(each["id"], 0),
            tally=each["tally"] or {},
        )
        if status in {"accepted", "trained"}:
            report.accepted.append(proposal)
        elif status in {"rejected", "harmful"}:
            report.rejected.append(proposal)
        else:
            report.undecided.append(proposal)


async def _read_round(stage: Stage) -> None:
    report, names = stage.report, stage.names
    honest = {each.name: each.honest for each in stage.roster}
    round_ = next(each for each in await stage.observer.rounds() if each["number"] == 1)
    for entry in round_["trainers"]:
        name = names.get(entry["address"], entry["address"])
        report.trainers.append(
            TrainerReport(
                name=name,
                address=entry["address"],
                honest=honest.get(name, False),
                outcome=entry["outcome"],
                reason=entry["reason"],
                amount=entry["paid"],
            )
        )
    report.trainers.sort(key=lambda each: each.name)
    explained = await stage.observer.explain("round-1")
    report.verdict_replayed = explained.get("agrees") is True
    if report.round_outcome == "accepted":
        accepted = {each.id for each in report.accepted}
        report.logprob_before = explained["log_prob"]["before"] / 1000
        report.logprob_after = explained["log_prob"]["after"] / 1000
        report.gain_millinats = sum(int(each["gain"]) for each in explained["gains"] if each["proposal"] in accepted)
