"""Storage audits: who is asked what, which answers pass, who loses what, and who can't lose anything."""

from __future__ import annotations

from typing import Any

import pytest
from audit_network import EPOCH_BLOCKS, HOLDERS, LEAVES, SHARDS, AuditNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_network import ONIONS, STRANGER, TOKEN, digest, key
from msgspec.structs import replace

from deepshard.errors import InvalidTransaction, UsageError
from deepshard.identity import SecretKey
from deepshard.ledger import OnionChain, check_transaction, genesis_state, keys
from deepshard.ledger.audits import audited_model, draw_shards, drawn_block, due_holders
from deepshard.ledger.explain import explain_audit
from deepshard.ledger.faults import (
    AlreadyDone,
    NotAValidator,
    NotDrawn,
    NotDue,
    UnknownAudit,
    WrongAnswer,
    WrongPhase,
)
from deepshard.ledger.records import Audit, ModelVersion
from deepshard.ledger.transactions import Action, Bond, OfferStorage, Unbond
from deepshard.limits import AUDITS_KEPT
from deepshard.placement import Candidate, holders
from deepshard.primitives import tagged_hash

STAKE = 1000 * TOKEN


def stake_of(network: AuditNetwork, holder: SecretKey) -> int:
    bond = network.state.validator(holder.address)
    return 0 if bond is None else bond.stake


def refused(network: AuditNetwork, sender: SecretKey, action: Action, error: type[InvalidTransaction]) -> str:
    """Both a mempool and a block refuse it, for the same reason."""
    (data,) = network.sign(sender, action)
    with pytest.raises(error) as caught:
        check_transaction(network.state, network.genesis.chain_id, data)
    with pytest.raises(error):
        network.block(data)
    return str(caught.value)


@pytest.mark.clause("11.12/2")
def test_audits_open_in_the_middle_of_each_epoch_but_the_first() -> None:
    network = AuditNetwork()
    for _ in range(EPOCH_BLOCKS + EPOCH_BLOCKS // 2 - 1):
        network.block()
    assert network.state.audits() == []
    network.block()
    audit = network.audit()
    chain = network.state.chain()
    assert (audit.epoch, audit.version, audit.opened_height) == (1, 0, EPOCH_BLOCKS + EPOCH_BLOCKS // 2)
    assert (audit.deadline, audit.seed, audit.closed) == (chain.height + 5, chain.beacon, False)
    assert [one.shard for one in audit.shards] == list(draw_shards(chain.beacon, SHARDS, 3))
    assert all((one.shown, one.due, one.answered) == (False, (), ()) for one in audit.shards)
    assert network.close().epoch == 1
    assert network.state.chain().height == audit.deadline
    assert network.until_audit().opened_height == audit.opened_height + EPOCH_BLOCKS


@pytest.mark.clause("11.12/3")
@given(st.binary(min_size=32, max_size=32), st.integers(0, 200), st.integers(0, 64))
@settings(max_examples=50)
def test_drawn_shards_are_different_ones_in_order(seed: bytes, shard_count: int, count: int) -> None:
    drawn = draw_shards(seed, shard_count, count)
    assert len(drawn) == min(shard_count, count)
    assert sorted(set(drawn)) == list(drawn)
    assert all(0 <= shard < shard_count for shard in drawn)


@pytest.mark.clause("11.12/5")
def test_every_block_is_asked_for_equally_often_and_each_holder_for_another() -> None:
    counts = [0] * 5
    for number in range(2000):
        counts[drawn_block(digest(str(number)), 3, HOLDERS[0].address, 5)] += 1
    assert all(320 < count < 480 for count in counts)
    asked = {drawn_block(digest("seed"), 3, holder.address, 1000) for holder in HOLDERS}
    assert len(asked) == len(HOLDERS)


@pytest.mark.clause("11.12/6")
def test_holders_that_answer_pass_free_of_charge() -> None:
    network = AuditNetwork()
    network.until_audit()
    before = [network.state.account(holder.address).balance for holder in HOLDERS]
    network.answer_all()
    for drawn in network.audit().shards:
        assert drawn.shown
        assert drawn.due == drawn.answered == due_holders(network.state, LEAVES[drawn.shard].key)
        assert len(drawn.due) == 3
    audit = network.close()
    assert [network.state.account(holder.address).balance for holder in HOLDERS] == before
    assert [stake_of(network, holder) for holder in HOLDERS] == [STAKE] * 6
    passed = network.facts("audit-passed")
    assert sum(dict(receipt.facts)["asked"] for receipt in passed) == 9  # type: ignore[misc]
    assert [(one.failed, one.bonded, one.unbonding) for one in audit.outcomes] == [(0, 0, 0)] * len(passed)
    assert [receipt.account for receipt in passed] == [one.holder for one in audit.outcomes]
    assert network.facts("audit-failed") == []
    closed = network.facts("audit-closed")[0]
    assert closed.facts == (("epoch", 1), ("version", 0), ("shards", 3), ("shown", 3))


@pytest.mark.clause("11.12/8")
def test_who_has_lost_its_chunks_is_slashed_and_nobody_else() -> None:
    network = AuditNetwork()
    network.until_audit()
    lost = network.due(network.audit().shards[0].shard)[0]
    asked = sum(lost in network.due(one.shard) for one in network.audit().shards)
    treasury = network.state.supply().treasury
    network.answer_all(without=(lost,))
    network.close()
    slash = STAKE * 40 // 10_000
    assert {holder.address: stake_of(network, holder) for holder in HOLDERS} == {
        holder.address: STAKE - slash * (holder is lost) for holder in HOLDERS
    }
    assert network.state.supply().treasury == treasury + slash
    (receipt,) = network.facts("audit-failed")
    facts = dict(receipt.facts)
    assert (receipt.account, receipt.amount, receipt.reason) == (lost.address, -slash, "not-shown")
    assert (facts["asked"], facts["failed"], facts["bonded"], facts["unbonding"]) == (asked, asked, slash, 0)
    explained = explain_audit(network.state, 1)
    assert explained["agrees"] is True
    assert [(one["failed"], one["lost"]) for one in explained["outcomes"] if one["failed"]] == [(asked, slash)]


@pytest.mark.clause("11.12/8")
def test_who_shows_a_part_loses_the_other_part_of_the_slash() -> None:
    network = AuditNetwork(replication=6)
    network.until_audit()
    holder = HOLDERS[2]
    kept = network.audit().shards[0].shard
    network.answer_all(without=(holder,))
    network.block(*network.sign(holder, network.answer(holder, kept)))
    network.close()
    assert stake_of(network, holder) == STAKE - STAKE * 40 * 2 // 30_000
    (receipt,) = network.facts("audit-failed")
    missing = " ".join(str(one.shard) for one in network.audit().shards[1:])
    assert dict(receipt.facts)["shards"] == missing


@pytest.mark.clause("11.12/7", "11.12/8")
def test_joint_silence_of_all_holders_is_ended_by_any_validator() -> None:
    network = AuditNetwork()
    network.until_audit()
    shard = network.audit().shards[1].shard
    silent = network.due(shard)
    stranger = next(holder for holder in HOLDERS if holder not in silent)
    network.block(*network.sign(stranger, network.show(shard)))
    drawn = network.audit().shards[1]
    assert (drawn.shown, drawn.answered) == (True, ())
    assert set(drawn.due) == {holder.address for holder in silent}
    refused(network, HOLDERS[0], network.show(shard), WrongPhase)
    network.close()
    for holder in HOLDERS:
        assert (stake_of(network, holder) < STAKE) == (holder in silent)
    assert len(network.facts("audit-failed")) == len(silent)


@pytest.mark.clause("11.12/8")
def test_what_nobody_shows_costs_nobody_and_is_told() -> None:
    network = AuditNetwork()
    network.until_audit()
    audit = network.close()
    assert audit.outcomes == ()
    assert [stake_of(network, holder) for holder in HOLDERS] == [STAKE] * 6
    assert dict(network.facts("audit-closed")[0].facts)["shown"] == 0


@pytest.mark.clause("11.12/8")
def test_withdrawing_the_bond_after_the_draw_saves_nothing() -> None:
    network = AuditNetwork()
    network.until_audit()
    shard = network.audit().shards[0].shard
    leaver = network.due(shard)[0]
    other = next(holder for holder in HOLDERS if holder is not leaver)
    network.block(*network.sign(leaver, Unbond(STAKE)), *network.sign(other, network.show(shard)))
    network.close()
    (entry,) = network.state.account(leaver.address).unbonding
    assert entry.amount == STAKE - STAKE * 40 // 10_000
    lost = {receipt.account: receipt.amount for receipt in network.facts("audit-failed")}
    assert lost[leaver.address] == -STAKE * 40 // 10_000


@pytest.mark.clause("11.12/4")
def test_an_offer_after_the_epoch_began_doesnt_change_who_is_due() -> None:
    network = AuditNetwork()
    network.until_audit()
    shard = network.audit().shards[0].shard
    holder = network.due(shard)[0]
    before = network.due(shard)
    network.block(*network.sign(holder, OfferStorage(0, "", "")))
    assert network.due(shard) == before
    network.block(*network.sign(holder, network.answer(holder, shard)))
    network.close()
    network.until_audit()
    assert all(holder not in network.due(row) for row in range(SHARDS))


@pytest.mark.clause("11.12/4")
def test_who_was_not_in_the_set_of_the_epoch_before_is_not_due_yet() -> None:
    network = AuditNetwork(replication=7)
    joining = key("validator joining")
    ONIONS[joining.address] = OnionChain(joining.seed, 300)
    funded = replace(network.state.account(HOLDERS[0].address), nonce=0)
    network.state = network.state.changed({keys.account_key(joining.address): funded})
    network.genesis = replace(network.genesis)
    supply = network.state.supply()
    network.state = network.state.changed({keys.SUPPLY: replace(supply, genesis=supply.genesis + funded.balance)})
    network.until_audit()
    network.block(*network.sign(joining, Bond(STAKE, ONIONS[joining.address].tip)))
    network.close()
    for asked in (False, True):
        audit = network.until_audit()
        shard = audit.shards[0].shard
        assert any(each.address == joining.address for each in network.state.active().validators)
        assert (joining.address in due_holders(network.state, LEAVES[shard].key)) == asked
        if not asked:
            refused(network, joining, network.answer(joining, shard), NotDue)
        network.close()


@pytest.mark.clause("11.12/4")
def test_who_is_due_holds_the_shard_by_both_sets() -> None:
    network = AuditNetwork()
    network.block(*network.sign(HOLDERS[0], Unbond(300 * TOKEN)), *network.sign(HOLDERS[1], OfferStorage(5, "x", "")))
    network.until_audit()
    stakes = {holder.address: STAKE for holder in HOLDERS}
    offers = {HOLDERS[1].address: (5, "x")}

    def candidates(stakes: dict[bytes, int]) -> list[Candidate]:
        return [
            Candidate(address, min(stake, offers.get(address, (stake, ""))[0]), offers.get(address, (0, ""))[1])
            for address, stake in stakes.items()
        ]

    now = candidates(stakes | {HOLDERS[0].address: 700 * TOKEN})
    for leaf in LEAVES:
        both = set(holders(leaf.key, now, 3)) & set(holders(leaf.key, candidates(stakes), 3))
        assert due_holders(network.state, leaf.key) == tuple(sorted(both))


@pytest.mark.clause("11.12/2")
def test_a_version_of_this_epoch_is_not_audited_yet() -> None:
    network = AuditNetwork()
    network.blocks_until(lambda state: state.chain().epoch == 2, limit=60)
    tree = (digest("m"), digest("w"), digest("t"), 4)
    accepted = [ModelVersion(version, *tree, height, 0) for version, height in ((1, 20), (2, 24))]
    changes: dict[bytes, Any] = {keys.model_key(model.version): model for model in accepted}
    state = network.state.changed({**changes, keys.CHAIN: replace(network.state.chain(), version=2)})
    assert audited_model(state).version == 1
    later = state.changed({keys.CHAIN: replace(state.chain(), epoch=3)})
    assert audited_model(later).version == 2
    assert audited_model(network.state).version == 0


@pytest.mark.clause("11.12/6", "11.12/7")
def test_who_may_answer_what_and_when() -> None:
    network = AuditNetwork()
    network.until_audit()
    first, other = (one.shard for one in network.audit().shards[:2])
    holder = network.due(first)[0]
    good = network.answer(holder, first)
    refused(network, holder, replace(good, epoch=2), UnknownAudit)
    outsider = next(one for one in HOLDERS if one not in network.due(first))
    refused(network, outsider, network.answer(outsider, first), NotDue)
    undrawn = next(row for row in range(SHARDS) if row not in {one.shard for one in network.audit().shards})
    refused(network, holder, network.answer(holder, undrawn), NotDrawn)
    refused(network, HOLDERS[0], network.show(undrawn), NotDrawn)
    forged = replace(network.show(other), leaf=replace(LEAVES[other], key=digest("mine")))
    refused(network, HOLDERS[0], forged, WrongAnswer)
    network.block(*network.sign(holder, good))
    refused(network, holder, good, AlreadyDone)
    refused(network, HOLDERS[0], network.show(first), WrongPhase)
    refused(network, outsider, network.answer(outsider, first), NotDue)
    late = network.due(other)[0]
    late_answer, late_show = network.answer(late, other), network.show(other)
    network.close()
    refused(network, late, late_answer, WrongPhase)
    refused(network, late, late_show, WrongPhase)


@pytest.mark.clause("11.12/6", "11.12/7")
def test_only_active_validators_take_part() -> None:
    network = AuditNetwork()
    network.until_audit()
    shard = network.audit().shards[0].shard
    refused(network, STRANGER, network.answer(STRANGER, shard), NotAValidator)
    refused(network, STRANGER, network.show(shard), NotAValidator)


@pytest.mark.clause("11.12/6")
def test_what_another_answered_is_of_no_use() -> None:
    network = AuditNetwork()
    network.until_audit()
    while True:
        shard = max((one.shard for one in network.audit().shards), key=lambda row: LEAVES[row].blocks)
        one, two, *_ = network.due(shard)
        if network.answer(one, shard).block != network.answer(two, shard).block:
            break
        network.close()
        network.until_audit()
    network.block(*network.sign(one, network.answer(one, shard)))
    refused(network, two, network.answer(one, shard), WrongAnswer)


@pytest.mark.clause("11.12/9")
def test_old_audits_are_forgotten() -> None:
    network = AuditNetwork()
    audit: Audit | None = None
    for _ in range(AUDITS_KEPT + 2):
        audit = network.until_audit()
        network.close()
    assert audit is not None
    assert [one.epoch for one in network.state.audits()] == list(range(audit.epoch - AUDITS_KEPT + 1, audit.epoch + 1))


@pytest.mark.clause("11.12/2")
def test_a_network_without_audits_or_without_shards_draws_none() -> None:
    for changes in ({"audits_per_epoch": 0}, {}):
        network = AuditNetwork(**changes)
        if not changes:
            network.genesis = replace(network.genesis, shard_count=0)
            network.state = genesis_state(network.genesis)
        for _ in range(2 * EPOCH_BLOCKS):
            network.block()
        assert network.state.audits() == []
        assert network.facts("audit-opened") == []


@pytest.mark.clause("10.7/4")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audit_blocks": 6}, "audit_blocks"),
        ({"audit_blocks": 0}, "audit_blocks"),
        ({"audits_per_epoch": 65}, "audits_per_epoch"),
    ],
)
def test_an_audit_has_to_fit_into_its_epoch(changes: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AuditNetwork(**changes)


def test_an_audit_that_is_open_is_explained_as_far_as_it_is() -> None:
    network = AuditNetwork()
    network.until_audit()
    holder = network.due(network.audit().shards[0].shard)[0]
    network.block(*network.sign(holder, network.answer(holder, network.audit().shards[0].shard)))
    explained = explain_audit(network.state, 1)
    assert (explained["status"], explained["outcomes"], explained["agrees"]) == ("open", [], True)
    assert [len(one["answered"]) for one in explained["shards"]] == [1, 0, 0]
    with pytest.raises(UsageError, match="no such audit: there was none in epoch 9"):
        explain_audit(network.state, 9)


def test_a_record_that_was_tampered_with_does_not_agree() -> None:
    network = AuditNetwork()
    network.until_audit()
    network.answer_all()
    audit = network.close()
    bent = replace(audit, seed=tagged_hash("test", b"other"))
    state = network.state.changed({keys.audit_key(1): bent})
    assert explain_audit(state, 1)["agrees"] is False
    outcomes = (replace(audit.outcomes[0], failed=1), *audit.outcomes[1:])
    state = network.state.changed({keys.audit_key(1): replace(audit, outcomes=outcomes)})
    assert explain_audit(state, 1)["agrees"] is False
