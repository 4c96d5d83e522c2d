from __future__ import annotations

import pytest
from ledger_network import (
    GAINS,
    INFORMANT,
    PARAMS,
    TOKEN,
    TRAINERS,
    VALIDATORS,
    Network,
    base_profile,
    digest,
    key,
    submission_report,
)
from msgspec.structs import replace

from deepshard.errors import UsageError
from deepshard.ledger import explain_proposal, explain_round, keys, probes_of_round, round_subject
from deepshard.ledger.faults import (
    AlreadyDone,
    CommitmentMismatch,
    InsufficientBalance,
    LimitReached,
    NotATrainer,
    NotAValidator,
    NothingCommitted,
    StakeTooLow,
    UnknownRound,
    WrongPhase,
    WrongShape,
)
from deepshard.ledger.transactions import CommitWeights, JoinRound, ReportScores, RevealWeights, weights_commitment
from deepshard.primitives import ZERO_DIGEST

ADDRESSES = [trainer.address for trainer in TRAINERS]
POOL = PARAMS.mint_per_round * 6 // 10


def accepted_network(**changes: int) -> Network:
    network = Network(**changes)
    network.vote(network.propose("a", "b", "c"), *[True] * 4)
    return network


def balances(network: Network) -> list[int]:
    return [network.state.account(address).balance for address in ADDRESSES]


@pytest.mark.clause("11.5/19", "11.5/21")
def test_an_accepted_round_pays_the_honest_and_slashes_the_dishonest() -> None:
    network = accepted_network()
    before = balances(network)
    round_ = network.epoch(["honest", "honest", "injector", "honest"])
    assert [entry.outcome for entry in round_.trainers] == ["accepted", "accepted", "slashed", "accepted"]
    assert (round_.status, round_.reason, round_.medoid) == ("closed", "similar-majority", ADDRESSES[0])
    reward = (POOL + 100 * TOKEN) // 3
    assert [entry.paid for entry in round_.trainers] == [reward, reward, -100 * TOKEN, reward]
    fees = 2 * PARAMS.transaction_fee  # join and commit; to reveal is a duty
    changes = [after - old for after, old in zip(balances(network), before, strict=True)]
    assert changes == [reward - fees, reward - fees, -100 * TOKEN - fees, reward - fees]
    assert all(network.state.account(address).locked == 0 for address in ADDRESSES)
    model = network.state.current_model()
    reference = (2 * GAINS["heldout"] + 2 * GAINS["general"]) // 4
    assert model.value == 3 * (GAINS["batch"] - reference)
    assert (model.version, model.height) == (1, network.state.chain().height)
    assert model.manifest == digest("manifest" + ADDRESSES[0].hex())
    assert model.weights_root == digest("weights" + ADDRESSES[0].hex())
    assert network.status(round_.proposals[0]) == "trained"
    assert network.state.agenda().waiting == ()
    assert list(network.state.heldout_pool())[3:] == [digest(text) for text in "abc"]


@pytest.mark.clause("11.9/1")
def test_receipts_tell_the_same_story() -> None:
    network = accepted_network()
    network.epoch(["honest", "base", "honest", "honest"])
    (slash,) = network.facts("trainer-slash")
    assert (slash.account, slash.amount, slash.reason) == (ADDRESSES[1], -100 * TOKEN, "no-progress")
    assert slash.subject == round_subject(1)
    assert dict(slash.facts)["gain_batch"] == 0
    rewards = network.facts("trainer-reward")
    assert [receipt.account for receipt in rewards] == [ADDRESSES[0], ADDRESSES[2], ADDRESSES[3]]
    (informant,) = network.facts("informant-reward")
    cap = PARAMS.mint_per_round * 4 // 10 * 6 // 10
    assert (informant.account, informant.amount) == (INFORMANT.address, cap)
    (accepted,) = network.facts("round-accepted")
    assert dict(accepted.facts)["minted"] == POOL + cap == network.state.supply().minted
    kinds = [receipt.kind for receipt in network.receipts if receipt.kind.startswith("round-")]
    assert kinds == ["round-opened", "round-training", "round-revealing", "round-scoring", "round-accepted"]


@pytest.mark.clause("11.5/21")
def test_informants_share_by_measured_gain() -> None:
    network = Network(informant_cap_bp=10_000)
    other = VALIDATORS[0]
    first = network.propose("a", "b", "c")
    second = network.propose("d", sender=other)
    network.vote(first, *[True] * 4)
    network.vote(second, *[True] * 4)
    network.epoch(["honest"])
    rewards = {receipt.account: receipt.amount for receipt in network.facts("informant-reward")}
    pool = PARAMS.mint_per_round * 4 // 10
    assert rewards == {INFORMANT.address: pool * 3 // 4, other.address: pool // 4}


@pytest.mark.parametrize("colluders", [["injector", "injector"], ["injector", "other"]])
def test_without_a_majority_the_round_is_void_and_opens_again(colluders: list[str]) -> None:
    network = accepted_network()
    before = balances(network)
    round_ = network.epoch(["honest", *colluders, "honest"])
    assert (round_.status, round_.reason, round_.medoid) == ("void", "void-no-majority", None)
    assert {entry.outcome for entry in round_.trainers} == {"returned"}
    fees = 2 * PARAMS.transaction_fee
    assert balances(network) == [balance - fees for balance in before]
    assert network.state.chain().version == 0
    assert network.state.supply().minted == 0
    assert network.status(round_.proposals[0]) == "accepted"
    again = network.epoch(["honest", "honest", "honest", "injector"])
    assert (again.number, again.status) == (2, "closed")
    assert again.batch == round_.batch


def test_missed_deadlines_cost_the_stake_even_in_a_void_round() -> None:
    network = accepted_network()
    round_ = network.epoch(["uncommitted", "unrevealed"])
    assert round_.reason == "void-no-submission"
    assert [(entry.reason, entry.paid) for entry in round_.trainers] == [
        ("not-committed", -100 * TOKEN),
        ("not-revealed", -100 * TOKEN),
    ]
    fees = PARAMS.transaction_fee * 4  # the proposal, two joins, one commit
    assert network.state.supply().treasury == 200 * TOKEN + fees


@pytest.mark.clause("11.5/20")
def test_nobody_joining_waits_longer_each_time_and_never_blames_the_data() -> None:
    network = accepted_network()
    waits = []
    for number in range(1, 6):
        network.blocks_until(network.in_phase("joining"), limit=80)
        opened = network.round().opened_height
        network.blocks_until(network.in_phase("void"))
        closed = network.round().deadline
        assert (network.round().number, closed - opened) == (number, PARAMS.join_blocks)
        (entry,) = network.state.agenda().waiting
        waits.append(entry.not_before - closed)
    assert waits == [4, 8, 16, 32, 64]
    assert network.status(network.round().proposals[0]) == "accepted"


@pytest.mark.clause("11.5/20")
def test_three_void_rounds_make_the_data_contested_and_free_again() -> None:
    network = accepted_network()
    for number in range(1, 4):
        round_ = network.epoch(["honest", "injector"])
        assert (round_.number, round_.status) == (number, "void")
    assert network.status(round_.proposals[0]) == "contested"
    assert network.state.agenda().waiting == ()
    assert explain_proposal(network.state, round_.proposals[0])["agrees"]
    network.propose("a")


def test_no_reports_void_the_round() -> None:
    network = accepted_network()
    network.join(TRAINERS)
    network.commit(TRAINERS)
    network.reveal(TRAINERS)
    network.report(dict.fromkeys(ADDRESSES, "honest"), VALIDATORS[:2])
    assert network.round().reason == "void-no-reports"
    assert {entry.outcome for entry in network.round().trainers} == {"returned"}


def test_three_of_four_validators_are_enough_at_the_deadline() -> None:
    network = accepted_network()
    network.join(TRAINERS)
    network.commit(TRAINERS)
    network.reveal(TRAINERS)
    deadline = network.round().deadline
    network.report(dict.fromkeys(ADDRESSES, "honest"), VALIDATORS[1:])
    assert network.round().status == "closed"
    assert network.state.chain().height == deadline


def test_seeds_come_from_the_beacon_of_the_block_that_ends_a_phase() -> None:
    network = accepted_network()
    network.join(TRAINERS)
    assert network.round().order_seed == network.state.chain().beacon
    assert network.round().probe_seed == ZERO_DIGEST
    assert probes_of_round(network.state, 1) == ()
    network.commit(TRAINERS)
    assert network.round().probe_seed == network.state.chain().beacon
    probes = probes_of_round(network.state, 1)
    assert [probe.pool for probe in probes] == ["batch"] * 3 + ["heldout"] * 2 + ["rejected"] * 2 + ["general"] * 2
    assert len(set(probes)) == len(probes)


def test_a_round_waits_for_open_votes_but_not_for_ever() -> None:
    network = Network(vote_commit_blocks=40)
    first = network.propose("a")
    second = network.propose("b")
    network.vote(first, *[True] * 4)
    decided = network.state.chain().height
    network.blocks_until(network.in_phase("joining"))
    assert network.state.chain().height == decided + 4 * PARAMS.freeze_blocks
    assert network.status(second) == "committing"
    assert network.round().proposals == (first,)


def test_rejected_text_that_was_accepted_later_is_no_probe() -> None:
    network = Network(probes=replace(PARAMS.probes, rejected=9))
    network.vote(network.propose("a"), *[False] * 4)
    network.vote(network.propose("b"), *[False] * 4)
    assert set(network.state.rejected_pool()) > {digest("a"), digest("b")}
    network.vote(network.propose("a"), *[True] * 4)
    network.join(TRAINERS)
    network.commit(TRAINERS)
    drawn = {probe.digest for probe in probes_of_round(network.state, 1) if probe.pool == "rejected"}
    assert drawn == set(network.state.canary_pool()) | {digest("b")}


@pytest.mark.clause("11.5/1")
def test_joining_is_checked() -> None:
    network = accepted_network()
    network.blocks_until(network.in_phase("joining"))
    trainer = TRAINERS[0]
    with pytest.raises(UnknownRound):
        network.block(*network.sign(trainer, JoinRound(2, 100 * TOKEN)))
    with pytest.raises(StakeTooLow) as caught:
        network.block(*network.sign(trainer, JoinRound(1, 100 * TOKEN - 1)))
    assert (caught.value.offered, caught.value.minimum) == (100 * TOKEN - 1, 100 * TOKEN)
    with pytest.raises(InsufficientBalance):
        network.block(*network.sign(trainer, JoinRound(1, 5000 * TOKEN)))
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(trainer, JoinRound(1, 100 * TOKEN), JoinRound(1, 100 * TOKEN)))
    with pytest.raises(WrongPhase):
        network.block(*network.sign(trainer, CommitWeights(1, digest("c"))))
    network.join([trainer])
    with pytest.raises(WrongPhase):
        network.block(*network.sign(TRAINERS[1], JoinRound(1, 100 * TOKEN)))
    with pytest.raises(NotATrainer):
        network.block(*network.sign(TRAINERS[1], CommitWeights(1, digest("c"))))
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(trainer, CommitWeights(1, digest("c")), CommitWeights(1, digest("d"))))


@pytest.mark.clause("11.5/1", "11.5/2")
def test_revealing_is_checked() -> None:
    network = accepted_network()
    network.join(TRAINERS[:3])
    network.commit(TRAINERS[:2])
    first, second, third = TRAINERS[:3]
    network.blocks_until(network.in_phase("revealing"))
    with pytest.raises(NothingCommitted):
        network.block(*network.sign(third, network.submission(third)))
    with pytest.raises(CommitmentMismatch):
        network.block(*network.sign(first, replace(network.submission(first), manifest=digest("other"))))
    with pytest.raises(CommitmentMismatch):
        network.block(*network.sign(second, network.submission(first)))
    with pytest.raises(AlreadyDone):
        network.block(*network.sign(first, network.submission(first), network.submission(first)))
    network.reveal([first])
    entry = network.round().trainers[0]
    reveal = network.submission(first)
    assert (entry.manifest, entry.weights_root, entry.checkpoint_root) == (
        reveal.manifest,
        reveal.weights_root,
        reveal.checkpoint_root,
    )


@pytest.mark.clause("11.5/2")
def test_a_copied_commitment_opens_for_nobody_else() -> None:
    reveal = RevealWeights(1, digest("m"), digest("w"), digest("t"), 9, digest("c"), digest("s"))
    assert weights_commitment(reveal, ADDRESSES[0]) != weights_commitment(reveal, ADDRESSES[1])


@pytest.mark.clause("11.5/1")
def test_reports_are_checked() -> None:
    network = accepted_network()
    network.join(TRAINERS[:2])
    network.commit(TRAINERS[:2])
    network.reveal(TRAINERS[:2])
    probes = probes_of_round(network.state, 1)
    good = tuple(submission_report(address, probes, "honest") for address in ADDRESSES[:2])
    base = base_profile(len(probes))
    validator = VALIDATORS[0]

    def refused(error: type[Exception], *reports: ReportScores, sender: str = "") -> None:
        with pytest.raises(error):
            network.block(*network.sign(key(sender) if sender else validator, *reports))

    refused(NotAValidator, ReportScores(1, good, base), sender="trainer 0")
    refused(WrongShape, ReportScores(1, good[::-1], base))
    refused(WrongShape, ReportScores(1, good[:1], base))
    refused(WrongShape, ReportScores(1, (*good, submission_report(ADDRESSES[2], probes, "honest")), base))
    refused(WrongShape, ReportScores(1, (good[0], replace(good[1], profile=good[1].profile[:-1])), base))
    refused(WrongShape, ReportScores(1, (good[0], replace(good[1], sketch=good[1].sketch[:-1])), base))
    refused(WrongShape, ReportScores(1, (good[0], replace(good[1], available=False)), base))
    refused(WrongShape, ReportScores(1, (good[0], replace(good[1], profile=(), sketch=())), base))
    refused(WrongShape, ReportScores(1, good, ()))
    refused(WrongShape, ReportScores(1, good, base[:-1]))
    refused(AlreadyDone, ReportScores(1, good, base), ReportScores(1, good, base))
    refused(UnknownRound, ReportScores(9, good, base))
    network.block(*network.sign(validator, ReportScores(1, good, base)))
    assert network.round().reporters == (validator.address,)
    assert network.state.report(1, validator.address) == ReportScores(1, good, base)


def test_places_in_a_round_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = accepted_network()
    network.blocks_until(network.in_phase("joining"))
    monkeypatch.setattr("deepshard.ledger.rounds.TRAINERS_MAX", 2)
    monkeypatch.setattr("deepshard.ledger.schedule.TRAINERS_MAX", 2)
    joins = [network.sign(trainer, JoinRound(1, 100 * TOKEN))[0] for trainer in TRAINERS]
    with pytest.raises(LimitReached):
        network.block(*joins[:3])
    network.block(*joins[:2])
    assert network.round().status == "training"


@pytest.mark.parametrize(
    "behaviours",
    [
        ["honest", "honest", "injector", "honest"],
        ["honest", "base", "honest", "leaker"],
        ["honest", "injector", "injector", "honest"],
        ["uncommitted", "unrevealed", "honest", "unavailable"],
        ["uncommitted"],
    ],
)
def test_explanations_replay_every_outcome(behaviours: list[str]) -> None:
    network = accepted_network()
    round_ = network.epoch(behaviours)
    explained = explain_round(network.state, 1)
    assert explained["agrees"]
    names = {"uncommitted": "committed", "unrevealed": "revealed", "base": "progressed", "leaker": "sound"}
    names |= {"injector": "similar", "unavailable": "available"}
    for what, entry, trainer in zip(behaviours, round_.trainers, explained["trainers"], strict=True):
        assert trainer["replayed_reason"] == entry.reason
        if what in names:
            assert trainer["tests"][-1]["test"] == names[what]
            assert not trainer["tests"][-1]["passed"]
        if entry.outcome == "accepted":
            assert [test["test"] for test in trainer["tests"]][-1] == "similar"
            assert all(test["passed"] for test in trainer["tests"])
    assert explain_proposal(network.state, round_.proposals[0])["agrees"]


@pytest.mark.parametrize(("reporters", "blocks"), [(4, 1), (3, 4), (2, 40)])
def test_scoring_ends_with_all_reports_or_a_grace_after_most(reporters: int, blocks: int) -> None:
    network = accepted_network(report_blocks=40, grace_blocks=3)
    network.join(TRAINERS[:3])
    network.commit(TRAINERS[:3])
    network.reveal(TRAINERS[:3])
    began = network.state.chain().height
    network.report({trainer.address: "honest" for trainer in TRAINERS[:3]}, VALIDATORS[:reporters])
    assert network.state.chain().height - began == blocks
    assert network.round().status == ("closed" if reporters >= 3 else "void")


def test_an_explanation_tells_what_the_model_learned_of_the_batch() -> None:
    network = accepted_network()
    round_ = network.epoch(["honest"] * 3)
    scoring = network.state.scoring(round_.number)
    assert scoring is not None
    places = [place for place, probe in enumerate(scoring.probes) if probe.pool == "batch"]
    learned = explain_round(network.state, 1)["log_prob"]
    assert learned["probes"] == len(places) > 0
    assert learned["before"] == sum(-3000 - place for place in places) // len(places)
    assert learned["after"] > learned["before"]
    void = accepted_network()
    void.epoch(["uncommitted"])
    assert explain_round(void.state, 1).get("log_prob") is None


def test_an_explanation_shows_a_record_that_does_not_follow_from_the_reports() -> None:
    network = accepted_network()
    round_ = network.epoch(["honest", "honest", "injector", "honest"])
    cheated = replace(round_.trainers[2], outcome="accepted", reason="similar-majority", paid=0)
    forged = replace(round_, trainers=(*round_.trainers[:2], cheated, round_.trainers[3]))
    assert not explain_round(network.state.changed({keys.round_key(1): forged}), 1)["agrees"]


def test_running_rounds_and_unknown_subjects() -> None:
    network = accepted_network()
    network.join(TRAINERS[:1])
    explained = explain_round(network.state, 1)
    assert explained["status"] == "training"
    assert [trainer["outcome"] for trainer in explained["trainers"]] == ["pending"]
    with pytest.raises(UsageError, match="no such round"):
        explain_round(network.state, 2)
    with pytest.raises(UsageError, match="no such proposal"):
        explain_proposal(network.state, bytes(32))
