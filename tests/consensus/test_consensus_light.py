"""Blocks and light client on one small signed chain whose validators change."""

from __future__ import annotations

from typing import Any

import pytest
from consensus_network import secret_keys
from msgspec.structs import replace

from deepshard.ballots import VOTE_TAG, VoteKind, vote_sign_bytes
from deepshard.consensus.blocks import ChainTip, build_header, genesis_tip, tip_of, validate_block
from deepshard.consensus.light import (
    InsufficientTrust,
    InvalidLightBlock,
    LightBlock,
    LightState,
    TrustExpired,
    decode_light_block,
    trust_genesis,
    verify_sequential,
    verify_skipping,
)
from deepshard.consensus.types import Block, CommitCertificate, CommitSignature, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import encode
from deepshard.errors import InvalidBlock, MalformedMessage
from deepshard.limits import BLOCK_TRANSACTIONS_MAX, CLOCK_DRIFT_MS_MAX, TRANSACTION_BYTES_MAX
from deepshard.primitives import ZERO_DIGEST, content_digest

CHAIN = "light-chain"
GENESIS = content_digest(b"genesis")
START_MS = 1_000_000
NOW_MS = START_MS + 60_000
PERIOD_MS = 3_600_000
KEYS = secret_keys(9)
KEY_BY_ADDRESS = {key.address: key for key in KEYS}


def members(*places: int) -> ValidatorSet:
    return ValidatorSet.of((KEYS[place].public, 10) for place in places)


SETS = [members(*range(height // 2, height // 2 + 4)) for height in range(10)]
"""The set of each height: one of four members is replaced every second height."""


def sign(header: Header, validators: ValidatorSet, count: int | None = None) -> CommitCertificate:
    block_id = header.block_id()
    message = vote_sign_bytes(CHAIN, VoteKind.PRECOMMIT, header.height, 1, block_id)
    signers = [entry.address for entry in validators.validators][:count]
    signatures = tuple(CommitSignature(address, KEY_BY_ADDRESS[address].sign(VOTE_TAG, message)) for address in signers)
    return CommitCertificate(header.height, 1, block_id, signatures)


def next_header(
    tip: ChainTip, last: CommitCertificate | None, transactions: tuple[bytes, ...] = (), **changes: Any
) -> Header:
    validators = SETS[tip.height + 1]
    header = build_header(
        chain_id=CHAIN,
        parent=tip,
        now_ms=START_MS + 1000 * (tip.height + 1),
        proposer=validators.validators[0].address,
        last_commit=last,
        transactions=transactions,
        state_root=content_digest(b"state"),
        receipts_root=content_digest(b"receipts"),
        validators=validators,
        next_validators_hash=SETS[tip.height + 2].hash(),
        manifest=content_digest(b"manifest"),
        onion_preimage=content_digest(b"onion"),
    )
    return replace(header, **changes)


def chain(length: int) -> list[tuple[ChainTip, Block, CommitCertificate]]:
    """Each height's parent tip, block and certificate."""
    tip, last = genesis_tip(GENESIS, START_MS, SETS[1]), None
    blocks = []
    for _ in range(length):
        transactions = (b"one", b"two")
        header = next_header(tip, last, transactions)
        block = Block(header, transactions, last)
        last = sign(header, SETS[header.height], 3)
        blocks.append((tip, block, last))
        tip = tip_of(header, SETS[header.height])
    return blocks


CHAIN_OF_8 = chain(8)
LIGHT = [LightBlock(block.header, certificate, SETS[block.header.height]) for _, block, certificate in CHAIN_OF_8]
TRUSTED = trust_genesis(CHAIN, GENESIS, START_MS, SETS[1])


def check(block: Block, tip: ChainTip, **options: Any) -> None:
    validate_block(block, chain_id=CHAIN, parent=tip, validators=SETS[tip.height + 1], **options)


def test_every_block_of_the_chain_is_valid() -> None:
    for tip, block, _ in CHAIN_OF_8:
        check(block, tip, proposer=block.header.proposer, time_ms_max=block.header.time_ms)


@pytest.mark.clause("10.3/1", "10.3/2", "10.3/4", "14.1/4")
@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"version": 2}, "version 2, expected 1"),
        ({"chain_id": "elsewhere"}, "chain id 'elsewhere'"),
        ({"height": 4}, "height 4, expected 3"),
        ({"parent_id": ZERO_DIGEST}, "has parent"),
        ({"time_ms": CHAIN_OF_8[2][0].time_ms}, "its parent"),
        ({"time_ms": NOW_MS + 1}, "later than"),
        ({"validators_hash": ZERO_DIGEST}, "validators hash"),
        ({"proposer": bytes(20)}, "no validator"),
        ({"proposer": SETS[3].validators[1].address}, "has proposer"),
        ({"transactions_root": ZERO_DIGEST}, "transactions root"),
        ({"last_commit_hash": ZERO_DIGEST}, "last commit hash"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(changes: dict[str, Any], fault: str) -> None:
    tip, block, _ = CHAIN_OF_8[2]
    with pytest.raises(InvalidBlock, match=fault):
        check(
            replace(block, header=replace(block.header, **changes)),
            tip,
            proposer=block.header.proposer,
            time_ms_max=NOW_MS,
        )


@pytest.mark.clause("10.3/1")
def test_times_are_as_far_apart_as_the_network_asks() -> None:
    tip, block, _ = CHAIN_OF_8[2]
    apart = block.header.time_ms - tip.time_ms
    check(block, tip, interval_ms=apart)
    with pytest.raises(InvalidBlock, match=f"at least {apart + 1} ms have to be between them"):
        check(block, tip, interval_ms=apart + 1)


@pytest.mark.clause("10.3/2")
def test_validators_must_be_those_the_parent_announced() -> None:
    tip, block, _ = CHAIN_OF_8[2]
    header = replace(block.header, validators_hash=SETS[6].hash(), proposer=SETS[6].validators[0].address)
    with pytest.raises(InvalidBlock, match="validators hash"):
        validate_block(replace(block, header=header), chain_id=CHAIN, parent=tip, validators=SETS[6])


@pytest.mark.clause("10.3/3", "10.3/4")
@pytest.mark.parametrize(
    ("transactions", "fault"),
    [
        ((b"",) * (BLOCK_TRANSACTIONS_MAX + 1), "2001 transactions"),
        ((bytes(TRANSACTION_BYTES_MAX + 1),), "131073 bytes"),
        ((bytes(TRANSACTION_BYTES_MAX),) * 17, "block 1 is"),
        ((b"two", b"one"), "transactions root"),
    ],
)
def test_transactions_are_bounded_and_ordered(transactions: tuple[bytes, ...], fault: str) -> None:
    tip, block, _ = CHAIN_OF_8[0]
    with pytest.raises(InvalidBlock, match=fault):
        check(replace(block, transactions=transactions), tip)


@pytest.mark.clause("10.3/5")
def test_the_last_commit_must_prove_the_parent() -> None:
    tip, block, _ = CHAIN_OF_8[2]
    weak = sign(CHAIN_OF_8[1][1].header, SETS[2], 2)
    for last, fault in ((weak, "power 20 of 40"), (None, "carries no certificate")):
        with pytest.raises(InvalidBlock, match=fault):
            check(Block(next_header(tip, last, block.transactions), block.transactions, last), tip)
    tip, block, certificate = CHAIN_OF_8[0]
    with pytest.raises(InvalidBlock, match="genesis has none"):
        check(Block(next_header(tip, certificate, block.transactions), block.transactions, certificate), tip)


def test_a_proposer_whose_clock_is_behind_still_moves_time_on() -> None:
    tip, _, _ = CHAIN_OF_8[0]
    assert next_header(replace_tip(tip, time_ms=NOW_MS), None).time_ms == NOW_MS + 1


def replace_tip(tip: ChainTip, *, time_ms: int) -> ChainTip:
    return ChainTip(tip.height, tip.block_id, time_ms, tip.validators, tip.next_validators_hash)


def sequential(state: LightState, block: LightBlock, *, now_ms: int = NOW_MS) -> LightState:
    return verify_sequential(state, block, now_ms=now_ms, trusting_period_ms=PERIOD_MS)


def skipping(state: LightState, block: LightBlock, *, now_ms: int = NOW_MS) -> LightState:
    return verify_skipping(state, block, now_ms=now_ms, trusting_period_ms=PERIOD_MS)


@pytest.mark.clause("10.5/4", "10.5/5")
def test_the_chain_can_be_followed_header_by_header_and_by_skips() -> None:
    state = TRUSTED
    for block in LIGHT:
        state = sequential(state, decode_light_block(*map(encode, (block.header, block.certificate, block.validators))))
    assert (state.height, state.block_id, state.header) == (8, LIGHT[7].header.block_id(), LIGHT[7].header)
    assert skipping(skipping(skipping(TRUSTED, LIGHT[2]), LIGHT[4]), LIGHT[7]) == state


@pytest.mark.clause("10.5/5")
def test_a_skip_over_too_many_new_validators_is_refused() -> None:
    assert skipping(TRUSTED, LIGHT[2]).height == 3
    with pytest.raises(InsufficientTrust) as caught:
        skipping(TRUSTED, LIGHT[7])
    assert (caught.value.trusted_height, caught.value.height, caught.value.total_power) == (0, 8, 40)
    assert caught.value.power <= 13
    assert caught.value.penalty == 0


@pytest.mark.clause("10.5/7")
def test_trust_expires() -> None:
    fresh_until = START_MS + PERIOD_MS
    assert sequential(TRUSTED, LIGHT[0], now_ms=fresh_until - 1).height == 1
    for verify in (sequential, skipping):
        with pytest.raises(TrustExpired):
            verify(TRUSTED, LIGHT[0], now_ms=fresh_until)


def forge(height: int, validators: ValidatorSet, **changes: Any) -> LightBlock:
    header = replace(LIGHT[height - 1].header, validators_hash=validators.hash(), **changes)
    return LightBlock(header, sign(header, validators), validators)


@pytest.mark.clause("10.5/2", "10.5/3", "10.5/4")
@pytest.mark.parametrize(
    ("forged", "fault"),
    [
        (LIGHT[1], "expected 1"),
        (forge(1, SETS[1], parent_id=ZERO_DIGEST), "has parent"),
        (forge(1, members(5, 6, 7, 8)), "other validators"),
        (forge(1, SETS[1], chain_id="elsewhere"), "elsewhere"),
        (forge(1, SETS[1], version=9), "version 9"),
        (forge(1, SETS[1], time_ms=NOW_MS + CLOCK_DRIFT_MS_MAX + 1), "has time"),
        (forge(1, SETS[1], time_ms=START_MS), "has time"),
        (replace(LIGHT[0], validators=SETS[6]), "aren't its own"),
        (replace(LIGHT[0], certificate=sign(LIGHT[0].header, SETS[1], 2)), "power 20 of 40"),
        (replace(LIGHT[0], header=replace(LIGHT[0].header, state_root=ZERO_DIGEST)), "is for block"),
    ],
)
def test_a_forged_next_header_is_refused(forged: LightBlock, fault: str) -> None:
    with pytest.raises(InvalidLightBlock, match=fault):
        sequential(TRUSTED, forged)


@pytest.mark.clause("10.5/3", "10.5/5", "10.5/6")
def test_a_forged_far_header_is_refused() -> None:
    state = skipping(TRUSTED, LIGHT[2])
    with pytest.raises(InvalidLightBlock, match="not later"):
        skipping(state, LIGHT[2])
    with pytest.raises(InsufficientTrust):
        skipping(state, forge(6, members(5, 6, 7, 8)))
    one_old_of_four = ValidatorSet.of(
        [(entry.public_key, 10) for entry in SETS[3].validators[:1]] + [(KEYS[8].public, 10)]
    )
    with pytest.raises(InsufficientTrust):
        skipping(state, forge(6, one_old_of_four))
    weak = forge(6, SETS[3])
    with pytest.raises(InvalidLightBlock, match="power 20 of 40"):
        skipping(state, replace(weak, certificate=sign(weak.header, SETS[3], 2)))
    unsigned = tuple(CommitSignature(entry.address, bytes(64)) for entry in SETS[3].validators)
    with pytest.raises(InvalidLightBlock, match="does not verify"):
        skipping(state, replace(weak, certificate=replace(weak.certificate, signatures=unsigned)))


@pytest.mark.clause("10.5/1")
def test_a_light_block_is_decoded_within_bounds() -> None:
    block = LIGHT[0]
    with pytest.raises(MalformedMessage):
        decode_light_block(encode(block.header), encode(block.certificate), encode((SETS[1].validators[::-1],)))
