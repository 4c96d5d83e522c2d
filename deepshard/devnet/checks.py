"""What has to be true at the end of a run; pure, on the report alone, so that each rule can be tried on a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from deepshard.devnet.report import Check, Report, TrainerReport
from deepshard.devnet.roster import NODES, TRAINERS, VALIDATORS

SERVING_PEERS_MIN = 2
REPLICATION = 3
SCORING_OPERATOR = "deepshard::perturbation_score"


@dataclass(frozen=True)
class _Rule:
    name: str
    judge: Callable[[Report], tuple[bool, str]]
    applies: Callable[[Report], bool] = lambda _: True


def run_checks(report: Report) -> list[Check]:
    """Judge a finished run; a rule that doesn't apply to it gives no check."""
    checks = []
    for rule in _RULES:
        if rule.applies(report):
            passed, facts = rule.judge(report)
            checks.append(Check(name=rule.name, passed=passed, facts=facts))
    return checks


def _is_accepted(report: Report) -> bool:
    return report.round_outcome == "accepted"


def _is_void(report: Report) -> bool:
    return report.round_outcome == "void"


def _has_ended(report: Report) -> bool:
    return all(each.exit_code is not None for each in report.processes)


def _proposals(report: Report) -> tuple[bool, str]:
    sound = [each for each in report.accepted if each.expected == "accepted"]
    worthless = [each for each in report.rejected if each.expected == "rejected"]
    passed = (
        len(report.accepted) == len(sound) == 1
        and len(report.rejected) == len(worthless) == 1
        and not report.undecided
        and all(each.tally for each in (*sound, *worthless))
    )
    every = (*report.accepted, *report.rejected, *report.undecided)
    return passed, "; ".join(f"{each.title!r} is {each.status}" for each in every) or "no proposals"


def _stake_cut(report: Report) -> tuple[bool, str]:
    passed = all(0 < each.slashed <= each.stake for each in report.rejected) and all(
        each.slashed == 0 for each in report.accepted
    )
    return passed, "; ".join(f"{each.title!r} lost {each.slashed} of {each.stake}" for each in report.rejected)


def _round_decided(report: Report) -> tuple[bool, str]:
    # Two different dishonest of four leave the honest without a majority: then a void round is the right answer.
    allowed = {"accepted", "void"} if report.dishonest >= TRAINERS // 2 else {"accepted"}
    outcome = report.round_outcome or "undecided"
    return outcome in allowed, f"round {outcome} {report.round_reason}".rstrip()


def _by_honesty(report: Report) -> tuple[list[TrainerReport], list[TrainerReport]]:
    return [each for each in report.trainers if each.honest], [each for each in report.trainers if not each.honest]


def _all_trainers(report: Report) -> tuple[bool, str]:
    honest, dishonest = _by_honesty(report)
    passed = len(honest) + len(dishonest) == TRAINERS and len(dishonest) == report.dishonest
    return passed, f"{len(honest)} honest and {len(dishonest)} dishonest trainers in the round"


def _dishonest_slashed(report: Report) -> tuple[bool, str]:
    slashed = sorted(each.name for each in report.trainers if each.outcome == "slashed")
    expected = sorted(each.name for each in report.trainers if not each.honest)
    cut = all(each.amount < 0 for each in report.trainers if each.outcome == "slashed")
    return slashed == expected and cut, f"slashed {slashed or 'nobody'}, dishonest {expected or 'nobody'}"


def _honest_paid(report: Report) -> tuple[bool, str]:
    honest, _ = _by_honesty(report)
    passed = bool(honest) and all(each.outcome == "accepted" and each.amount > 0 for each in honest)
    return passed, _outcomes(honest)


def _none_dishonest_accepted(report: Report) -> tuple[bool, str]:
    _, dishonest = _by_honesty(report)
    return all(each.outcome in {"slashed", "returned"} for each in dishonest), _outcomes(
        dishonest
    ) or "nobody dishonest"


def _no_honest_slashed(report: Report) -> tuple[bool, str]:
    honest, _ = _by_honesty(report)
    return all(each.outcome != "slashed" and each.amount >= 0 for each in honest), _outcomes(honest)


def _outcomes(trainers: list[TrainerReport]) -> str:
    return "; ".join(f"{each.name} {each.outcome} ({each.reason}) {each.amount:+d}" for each in trainers)


def _weights_changed(report: Report) -> tuple[bool, str]:
    before, after = report.weights_root_before, report.weights_root_after
    return bool(before) and bool(after) and before != after, f"{before[:16]} -> {after[:16]}"


def _weights_kept(report: Report) -> tuple[bool, str]:
    before, after = report.weights_root_before, report.weights_root_after
    return bool(before) and before == after, f"{before[:16]} -> {after[:16]}"


def _inference_verified(report: Report) -> tuple[bool, str]:
    root = report.download.weights_root
    return bool(
        root
    ) and root == report.weights_root_after, f"inference {root[:16]}, chain {report.weights_root_after[:16]}"


def _download(report: Report) -> tuple[bool, str]:
    download = report.download
    serving = [name for name, size in download.bytes_by_peer.items() if size > 0 and name.startswith("validator-")]
    passed = len(serving) >= SERVING_PEERS_MIN and download.chunks_verified > 0
    return passed, f"{download.chunks_verified} chunks verified, from {', '.join(serving) or 'nobody'}"


def _delta_smaller(report: Report) -> tuple[bool, str]:
    sizes = report.download.bytes_by_version
    return 0 < sizes.get("1", 0) < sizes.get("0", 0), f"bytes fetched by version: {sizes}"


def _licence(report: Report) -> tuple[bool, str]:
    licence = report.licence
    if licence is None:
        return False, "no licence"
    return licence.price > 0 and licence.height > 0, f"{licence.price} units at height {licence.height}"


def _light_client(report: Report) -> tuple[bool, str]:
    height = report.download.light_client_height
    return height > 0, f"verified up to height {height}"


def _log_prob(report: Report) -> tuple[bool, str]:
    before, after = report.logprob_before, report.logprob_after
    passed = before is not None and after is not None and after > before
    return passed, f"{before} -> {after} nats a token"


def _gain(report: Report) -> tuple[bool, str]:
    return report.gain_millinats > 0, f"{report.gain_millinats} millinats a token, summed over segments"


def _replayed(report: Report) -> tuple[bool, str]:
    return (
        report.verdict_replayed,
        f"replaying the reports gives {'the same' if report.verdict_replayed else 'another'} verdict",
    )


def _supply(report: Report) -> tuple[bool, str]:
    due = report.supply.get("genesis", 0) + report.supply.get("minted", 0) - report.supply.get("burned", 0)
    passed = report.supply_conserved and due == report.supply_held and due > 0
    return passed, f"held {report.supply_held}, genesis + minted - burned {due}"


def _agreement(report: Report) -> tuple[bool, str]:
    roots = set(report.state_roots.values())
    passed = len(report.state_roots) == VALIDATORS and len(roots) == 1 and "" not in roots
    return (
        passed,
        f"{len(report.state_roots)} validators, {len(roots)} state root(s) at height {report.agreement_height}",
    )


def _storage(report: Report) -> tuple[bool, str]:
    version = 1 if _is_accepted(report) else 0
    # A small model has fewer shards than there are validators, so one of these may be assigned none.
    passed = (
        len(report.storage) == VALIDATORS
        and all(each.version == version and each.held == each.assigned for each in report.storage.values())
        and sum(each.held for each in report.storage.values()) >= REPLICATION
    )
    return passed, "; ".join(
        f"{name} holds {each.held}/{each.assigned} of version {each.version}" for name, each in report.storage.items()
    )


def _answers(report: Report) -> tuple[bool, str]:
    answers = report.answers
    passed = bool(answers.before.strip()) and bool(answers.after.strip())
    return passed, f"{len(answers.before)} characters before, {len(answers.after)} after"


def _stream(report: Report) -> tuple[bool, str]:
    answers = report.answers
    # Broken UTF-8, which an untrained byte-level model may say, is held back until its end: that is one piece.
    pieces_min = 1 if "\N{REPLACEMENT CHARACTER}" in answers.streamed else 2
    passed = (
        answers.streamed_pieces >= pieces_min and bool(answers.streamed.strip()) and answers.streamed == answers.after
    )
    return (
        passed,
        f"{answers.streamed_pieces} pieces, {'equal to' if answers.streamed == answers.after else 'unlike'} the whole",
    )


def _nodes(report: Report) -> tuple[bool, str]:
    pids = {each.pid for each in report.processes}
    expected = NODES + len(_killed(report))  # who was killed was started twice
    return len(pids) == expected, f"{len(pids)} node processes"


def _clean_ends(report: Report) -> tuple[bool, str]:
    unclean = [
        f"{each.name}: {each.exit_code}"
        for each in report.processes
        if each.exit_code and each.pid not in _killed(report)
    ]
    return not unclean, "; ".join(unclean) or "exit code 0 after SIGTERM"


def _killed(report: Report) -> set[int]:
    return {each.pid for each in report.faults if each.kind == "kill" and each.pid}


def _bonds(report: Report) -> tuple[bool, str]:
    lost = {name: each.lost for name, each in report.audits.items()}
    less = [name for name, each in report.bonds.items() if each.after < each.before - lost.get(name, 0)]
    passed = len(report.bonds) == VALIDATORS and not less and all(each.before > 0 for each in report.bonds.values())
    return passed, f"{', '.join(less) or 'nobody'} of {len(report.bonds)} validators lost stake"


def _audits(report: Report) -> tuple[bool, str]:
    # Whoever stood still, or was dead or cut off, for a whole audit couldn't answer.
    faulty = {each.node for each in report.faults}
    failed = [name for name, each in report.audits.items() if each.failed and name not in faulty]
    asked, missed = (sum(getattr(each, name) for each in report.audits.values()) for name in ("asked", "failed"))
    return not failed, f"{asked - missed} of {asked} blocks asked for were shown"


def _no_equivocation(report: Report) -> tuple[bool, str]:
    return not report.equivocations, "; ".join(report.equivocations) or "no node saw two signatures where one may be"


def _scored(report: Report) -> tuple[bool, str]:
    others = [name for name, path in report.scored_by.items() if not path.startswith(SCORING_OPERATOR)]
    passed = not others and 3 * len(report.scored_by) > 2 * VALIDATORS
    return passed, "; ".join(f"{name} by {path}" for name, path in report.scored_by.items()) or "nobody scored"


def _faults_came(report: Report) -> tuple[bool, str]:
    passed = all(each.began_in == each.phase and each.facts for each in report.faults)
    return passed, "; ".join(
        f"{each.node} {each.facts} in {each.began_in}" if each.facts else f"no {each.kind} of {each.node}"
        for each in report.faults
    )


def _network_went_on(report: Report) -> tuple[bool, str]:
    passed = all(0 < each.height_before < each.height_after for each in report.faults)
    return passed, "; ".join(
        f"without {each.node} {each.height_before} -> {each.height_after}" for each in report.faults
    )


def _took_part_again(report: Report) -> tuple[bool, str]:
    passed = all(each.signed_height > each.height_after and each.node in report.state_roots for each in report.faults)
    return passed, "; ".join(
        f"{each.node} signed block {each.signed_height} {each.recovery_s:.1f} s after the fault"
        if each.signed_height
        else f"{each.node} signed nothing after the fault"
        for each in report.faults
    )


def _has_faults(report: Report) -> bool:
    return bool(report.faults)


def _has_audits(report: Report) -> bool:
    """Whether anything was asked for; a run of fewer blocks than an epoch and a half ends before."""
    return any(each.asked for each in report.audits.values())


def _rules() -> Iterator[_Rule]:
    yield _Rule("one proposal accepted, one rejected", _proposals)
    yield _Rule("the rejected stake is cut", _stake_cut)
    yield _Rule("the round was decided", _round_decided)
    yield _Rule("all trainers took part", _all_trainers)
    yield _Rule("no dishonest submission accepted", _none_dishonest_accepted)
    yield _Rule("no honest trainer slashed", _no_honest_slashed)
    yield _Rule("exactly the dishonest are slashed", _dishonest_slashed, _is_accepted)
    yield _Rule("every honest trainer is paid", _honest_paid, _is_accepted)
    yield _Rule("the weights changed", _weights_changed, _is_accepted)
    yield _Rule("a void round changes no weights", _weights_kept, _is_void)
    yield _Rule("the accepted text became more likely", _log_prob, _is_accepted)
    yield _Rule("validators measured a gain on it", _gain, _is_accepted)
    yield _Rule("validators scored through the kernels", _scored)
    yield _Rule("the verdict follows from the reports", _replayed)
    yield _Rule("validators hold their shards", _storage)
    yield _Rule("a licence was paid for", _licence)
    yield _Rule("downloaded from several validators, verified", _download)
    yield _Rule("the upgrade is smaller than the full copy", _delta_smaller, _is_accepted)
    yield _Rule("the inference node verified the chain's weights", _inference_verified)
    yield _Rule("the light client followed the chain", _light_client)
    yield _Rule("the model answered before and after", _answers)
    yield _Rule("the answer also came as a stream", _stream)
    yield _Rule("supply is conserved", _supply)
    yield _Rule("validators agree on the state", _agreement)
    yield _Rule("every node is a process of its own", _nodes)
    yield _Rule("every node shut down cleanly", _clean_ends, _has_ended)
    yield _Rule("no validator lost stake", _bonds)
    yield _Rule("validators showed what audits asked for", _audits, _has_audits)
    yield _Rule("nobody signed twice", _no_equivocation)
    yield _Rule("each fault came when it should, and took hold", _faults_came, _has_faults)
    yield _Rule("the network went on under each fault", _network_went_on, _has_faults)
    yield _Rule("the faulty caught up and sign again", _took_part_again, _has_faults)


_RULES = tuple(_rules())
