"""Storage audits, whatever is sent: only who has the bytes passes, who answered loses nothing, money is conserved."""

from __future__ import annotations

import pytest
from audit_network import HOLDERS, LEAVES, AuditNetwork
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger_network import TOKEN
from msgspec.structs import replace

from deepshard.errors import RemoteError
from deepshard.identity import SecretKey
from deepshard.ledger import check_transaction
from deepshard.ledger.explain import explain_audit
from deepshard.ledger.transactions import Action, AnswerAudit, Unbond

STAKE = 1000 * TOKEN


def shard_of(network: AuditNetwork, *, blocks_min: int = 1) -> int:
    """A shard that is asked for, of which so much is kept."""
    return next(one.shard for one in network.audit().shards if LEAVES[one.shard].blocks >= blocks_min)


@pytest.fixture(scope="module")
def asked() -> tuple[AuditNetwork, SecretKey, AnswerAudit]:
    network = AuditNetwork()
    network.until_audit()
    while not any(LEAVES[one.shard].blocks > 2 for one in network.audit().shards):
        network.close()
        network.until_audit()
    shard = shard_of(network, blocks_min=3)
    holder = network.due(shard)[0]
    return network, holder, network.answer(holder, shard)


def passes(network: AuditNetwork, holder: SecretKey, action: AnswerAudit) -> bool:
    (data,) = network.sign(holder, action)
    try:
        check_transaction(network.state, network.genesis.chain_id, data)
    except RemoteError:
        return False
    return True


def flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.clause("11.12/6")
@given(part=st.sampled_from(("block", "path", "proof", "key", "digest", "size", "position")), bit=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_fails(asked: tuple[AuditNetwork, SecretKey, AnswerAudit], part: str, bit: int) -> None:
    network, holder, good = asked
    assert passes(network, holder, good)
    leaf, chunks = good.leaf, good.leaf.chunks
    place = bit % len(chunks)
    if part == "block":
        bad = replace(good, block=flipped(good.block, bit))
    elif part in {"path", "proof"}:
        hashes = getattr(good, part)
        place = bit % len(hashes)
        bent = flipped(hashes[place], bit // len(hashes))
        bad = replace(good, **{part: (*hashes[:place], bent, *hashes[place + 1 :])})
    elif part == "key":
        bad = replace(good, leaf=replace(leaf, key=flipped(leaf.key, bit)))
    elif part == "position":
        bad = replace(good, leaf=replace(leaf, position=leaf.position ^ 1 << bit % 8))
    else:
        old = chunks[place]
        if part == "digest":
            new = replace(old, digest=flipped(old.digest, bit))
        else:
            new = replace(old, size=old.size ^ 1 << bit % 22)
        bad = replace(good, leaf=replace(leaf, chunks=(*chunks[:place], new, *chunks[place + 1 :])))
    assert bad != good
    assert not passes(network, holder, bad)


@pytest.mark.clause("11.12/6")
def test_another_block_of_the_chunk_does_not_pass(asked: tuple[AuditNetwork, SecretKey, AnswerAudit]) -> None:
    network, holder, good = asked
    audit = network.audit()
    others = {network.answer(other, good.leaf.position).block: other for other in HOLDERS}
    wrong = [network.answer(other, good.leaf.position) for block, other in others.items() if block != good.block]
    assert audit.shards
    assert wrong
    assert not any(passes(network, holder, one) for one in wrong)
    assert not passes(network, holder, replace(good, block=good.block[:-1]))
    assert not passes(network, holder, replace(good, block=good.block[:-1] + b"xx"))
    assert not passes(network, holder, replace(good, proof=good.proof[:-1]))
    assert not passes(network, holder, replace(good, leaf=replace(good.leaf, chunks=good.leaf.chunks[:1])))


@pytest.mark.clause("11.12/8", "11.1/2")
@given(
    answers=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=12, unique=True),
    shown=st.sets(st.integers(0, 2)),
    unbonded=st.dictionaries(st.integers(0, 5), st.integers(1, 499), max_size=3),
    slash_bp=st.sampled_from((0, 1, 7, 3333, 10_000)),
)
@settings(max_examples=25, deadline=None)
def test_nobody_who_answers_loses_and_money_is_conserved(
    answers: list[tuple[int, int]], shown: set[int], unbonded: dict[int, int], slash_bp: int
) -> None:
    """Any answers in any order: `Network.block` asserts after each block that the money is all there."""
    network = AuditNetwork(audit_slash_bp=slash_bp)
    network.until_audit()
    audit = network.audit()
    actions: list[tuple[SecretKey, Action]] = [
        (HOLDERS[number], Unbond(amount * TOKEN + 1)) for number, amount in unbonded.items()
    ]
    answered = set()
    for number, place in answers:
        holder, shard = HOLDERS[number], audit.shards[place].shard
        if holder in network.due(shard):
            actions.append((holder, network.answer(holder, shard)))
            answered.add((holder.address, shard))
    due = {(holder.address, one.shard) for one in audit.shards for holder in network.due(one.shard)}
    shown_shards = {shard for _, shard in answered}
    actions += [
        (HOLDERS[0], network.show(audit.shards[place].shard))
        for place in shown
        if audit.shards[place].shard not in shown_shards
    ]
    shown_shards |= {audit.shards[place].shard for place in shown}
    for sender, action in actions:
        network.block(*network.sign(sender, action)) if len(actions) < 3 else None
    if len(actions) >= 3:
        senders = list(dict.fromkeys(sender for sender, _ in actions))
        network.block(
            *(data for s in senders for data in network.sign(s, *(action for one, action in actions if one is s)))
        )
    closed = network.close()
    for outcome in closed.outcomes:
        mine = {shard for holder, shard in due if holder == outcome.holder and shard in shown_shards}
        failed = {shard for shard in mine if (outcome.holder, shard) not in answered}
        assert (outcome.asked, outcome.failed) == (len(mine), len(failed))
        number = next(n for n, holder in enumerate(HOLDERS) if holder.address == outcome.holder)
        gone = unbonded.get(number, 0) * TOKEN + (number in unbonded)
        part, whole = slash_bp * len(failed), 10_000 * len(mine)
        assert outcome.bonded == (STAKE - gone) * part // whole
        assert outcome.unbonding == gone * part // whole
    assert {one.holder for one in closed.outcomes} == {holder for holder, shard in due if shard in shown_shards}
    assert explain_audit(network.state, closed.epoch)["agrees"] is True
