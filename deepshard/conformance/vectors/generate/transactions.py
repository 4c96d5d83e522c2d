"""`transactions.json`: blocks of transfers, bonds, data proposals, votes and licences (chapter 11 without 11.5)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Final

from msgspec.structs import replace

from deepshard.conformance.vectors.document import Json, digest_of, document
from deepshard.conformance.vectors.generate.ledger import (
    BALANCE,
    BUYER,
    CHAIN,
    INFORMANT,
    STRANGER,
    TOKEN,
    TRAINERS,
    VALIDATORS,
    Cases,
    Ledger,
    genesis,
    onion,
    shown_state,
)
from deepshard.conformance.vectors.params import PARAMS
from deepshard.encoding import decode, encode
from deepshard.identity import SecretKey
from deepshard.ledger.state import State
from deepshard.ledger.transactions import (
    Bond,
    BuyLicence,
    CommitVote,
    OfferStorage,
    ProposeData,
    RevealVote,
    SegmentRef,
    Transaction,
    Transfer,
    Unbond,
    sign_transaction,
    vote_commitment,
)

_FEE: Final = PARAMS.transaction_fee
_ALICE, _BOB, _CAROL = TRAINERS
_FORM, _APPLIED, _PAYS, _WHOLE = ("11.2/1", "11.2/2", "11.2/3"), ("11.2/4",), ("11.2/5", "11.2/6"), ("11.2/7",)
_OFFERS: Final = ("11.3/1",)
_BONDS, _RELEASE, _EPOCH, _STAKE = ("11.3/1",), ("11.3/2",), ("11.3/3",), ("11.3/4",)
_PROPOSE, _COMMITMENT, _SEATS, _PHASES, _DECIDE, _SEGMENTS = (
    ("11.4/1",),
    ("11.4/2",),
    ("11.4/3",),
    ("11.4/6", "11.4/5"),
    ("11.4/12", "11.4/10"),
    ("11.4/13", "11.4/14"),
)
_LICENCE, _BLOCK, _RECEIPTS, _STATE = (
    ("11.6/1", "11.6/2", "11.6/4"),
    ("11.7/1", "11.7/2"),
    ("11.9/1", "11.9/2"),
    ("11.8/1",),
)
_MONEY: Final = ("11.1/2", "11.1/4")
_OUTCOMES: Final = ("accepted", "rejected", "harmful", "contested")


def make() -> Json:
    """The file."""
    cases = Cases(_states())
    groups = (
        _transfers(cases),
        _envelopes(cases),
        _bonds(cases),
        _offers(cases),
        _epochs(cases),
        _proposals(cases),
        _commits(cases),
    )
    later = (_reveals(cases), _licences(cases), _blocks(cases))
    return document(
        "transactions",
        "Blocks of transactions (chapter 11): the state before, all that changes, the receipts; or the error.",
        [case for group in (*groups, *later) for case in group],
        chain_id=CHAIN,
        genesis_hash=genesis().hash(),
        genesis_encoded=encode(genesis()),
        states={name: shown_state(state) for name, state in _states().items()},
    )


def _id(ledger: Ledger | State, title: str) -> bytes:
    """Id of the proposal with this title."""
    state = ledger.state if isinstance(ledger, Ledger) else ledger
    return next(proposal.id for proposal in state.proposals() if proposal.title == title)


def _proposal(title: str, *names: str, stake: int = 20 * TOKEN) -> ProposeData:
    return ProposeData(tuple(SegmentRef(digest_of(name), 100) for name in names), title, "en", "CC0-1.0", stake)


def _ballot(proposal: bytes, title: str, segments: int = 1) -> RevealVote:
    """How every validator votes on the proposal of this title."""
    score = 8000 if title == "accepted" else 1000
    scores = ((score, score, score, score, score),) * segments
    return RevealVote(proposal, scores, title in {"accepted", "contested"}, title == "harmful", 7000, digest_of("salt"))


def _commit(ledger: Ledger, key: SecretKey, title: str) -> CommitVote:
    proposal = _id(ledger, title)
    segments = 2 if title == "accepted" else 1
    return CommitVote(proposal, vote_commitment(_ballot(proposal, title, segments), key.address))


@cache
def _states() -> dict[str, State]:
    ledger = Ledger()
    states = {"genesis": ledger.state}
    proposals = [_proposal("accepted", "segment a", "segment b")]
    proposals += [_proposal(title, f"segment {title}") for title in _OUTCOMES[1:]]
    ledger.block(*ledger.sign(INFORMANT, *proposals))
    ledger.block(*ledger.sign(VALIDATORS[0], _commit(ledger, VALIDATORS[0], "accepted")))
    states["committing"] = ledger.state
    votes: list[bytes] = []
    for key in VALIDATORS:
        titles = [title for title in _OUTCOMES[:3] if (title, key) != ("accepted", VALIDATORS[0])]
        titles += ["contested"] if key == VALIDATORS[3] else []
        votes += ledger.sign(key, *(_commit(ledger, key, title) for title in titles))
    ledger.block(*votes)
    ledger.until(lambda state: {proposal.status for proposal in state.proposals()} == {"revealing"})
    states["revealing"] = ledger.state
    bonded = Ledger()
    tip = onion(BUYER).tip
    leaver = VALIDATORS[0]
    going = bonded.sign(leaver, OfferStorage(10**9, "x", "y"), Unbond(1000 * TOKEN))
    staying = bonded.sign(VALIDATORS[1], OfferStorage(10**9, "x", ""))
    bonded.block(*bonded.sign(BUYER, Bond(600 * TOKEN, tip)), *going, *staying)
    bonded.until(lambda state: state.chain().height == PARAMS.epoch_blocks - 2)
    states["bonded"] = bonded.state
    bonded.until(lambda state: state.chain().height == PARAMS.unbonding_blocks)
    states["unbonding"] = bonded.state
    return states


def _transfers(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    clauses = (*_FORM, *_PAYS, *_MONEY, *_RECEIPTS, *_STATE, "11.1/1", "11.3/1")
    good = {
        "a transfer": [Transfer(_BOB.address, TOKEN)],
        "two transfers": [Transfer(_BOB.address, TOKEN), Transfer(_CAROL.address, 1)],
        "all there is": [Transfer(_BOB.address, BALANCE - _FEE)],
        "to oneself": [Transfer(_ALICE.address, BALANCE - _FEE)],
        "to an account without a record": [Transfer(STRANGER.address, 5)],
        "to the address of zeros": [Transfer(bytes(20), 5)],
    }
    for name, actions in good.items():
        yield cases.good(f"transfer: {name}", clauses, "genesis", ledger.sign(_ALICE, *actions))
    bad = {
        "nothing": (Transfer(_BOB.address, 0), "StakeTooLow"),
        "one base unit too many": (Transfer(_BOB.address, BALANCE - _FEE + 1), "InsufficientBalance"),
        "2^62": (Transfer(_BOB.address, 2**62), "InsufficientBalance"),
    }
    for name, (action, error) in bad.items():
        yield cases.bad(f"transfer: {name}", ("11.3/1", *_PAYS), error, "genesis", ledger.sign(_ALICE, action))
    poor = ledger.sign(STRANGER, Transfer(_BOB.address, 1))
    yield cases.bad("transfer: from nothing", _PAYS, "InsufficientBalance", "genesis", poor)


def _envelopes(cases: Cases) -> Iterator[Json]:
    action = Transfer(_BOB.address, TOKEN)
    good = sign_transaction(_ALICE, CHAIN, 0, action)
    envelope = decode(good, Transaction, bytes_max=1000)
    forged = encode(replace(envelope, signature=bytes(64)))
    other = sign_transaction(_BOB, CHAIN, 0, action)
    stolen = encode(replace(envelope, signature=decode(other, Transaction, bytes_max=1000).signature))
    raw = encode(Transaction(envelope.body, _ALICE.sign("vote", envelope.body)))
    longer = envelope.body.replace(encode(CHAIN), b"\xd9" + len(CHAIN).to_bytes(1, "big") + CHAIN.encode(), 1)
    for name, clauses, error, transactions in (
        ("a nonce too high", _APPLIED, "NonceMismatch", [sign_transaction(_ALICE, CHAIN, 1, action)]),
        ("the same transaction twice", _APPLIED, "NonceMismatch", [good, good]),
        ("nonces in the wrong order", _APPLIED, "NonceMismatch", [sign_transaction(_ALICE, CHAIN, 1, action), good]),
        ("another chain", _APPLIED, "WrongChain", [sign_transaction(_ALICE, "other-chain", 0, action)]),
        ("a signature of zeros", _FORM, "BadSignature", [forged]),
        ("somebody else's signature", _FORM, "BadSignature", [stolen]),
        ("signed as a vote", (*_FORM, "3.2/1"), "BadSignature", [raw]),
        ("another chain and a bad signature", _APPLIED, "BadSignature", [forged.replace(b"vector", b"hector")]),
        ("a body of nothing", ("11.2/4", "2.4/6"), "MalformedMessage", [_signed(b"")]),
        ("a body with a byte behind it", ("11.2/4", "2.4/6"), "MalformedMessage", [_signed(envelope.body + b"\x00")]),
        ("a body with a longer text head", ("11.2/4", "2.4/6"), "MalformedMessage", [_signed(longer)]),
        ("a byte behind it", _APPLIED, "MalformedMessage", [good + b"\x00"]),
        ("cut short", _APPLIED, "MalformedMessage", [good[:-1]]),
        ("nothing", _APPLIED, "MalformedMessage", [b""]),
        ("more than 128 KiB", _APPLIED, "OversizedMessage", [bytes(128 * 1024 + 1)]),
        ("a chain id with capitals", _APPLIED, "MalformedMessage", [sign_transaction(_ALICE, "Chain", 0, action)]),
        ("a chain id with a line break", _APPLIED, "MalformedMessage", [sign_transaction(_ALICE, "a\n", 0, action)]),
        ("a good one, then a bad one", _WHOLE, "StakeTooLow", [good, *_second(Transfer(_BOB.address, 0))]),
    ):
        yield cases.bad(f"envelope: {name}", clauses, error, "genesis", transactions)


def _signed(body: bytes) -> bytes:
    return encode(Transaction(body, _ALICE.sign("transaction", body)))


def _second(action: Transfer) -> list[bytes]:
    return [sign_transaction(_ALICE, CHAIN, 1, action)]


def _bonds(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    tip, leaver = onion(BUYER).tip, VALIDATORS[0]
    clauses = (*_BONDS, *_STAKE, *_PAYS)
    yield cases.good("bond: a newcomer", clauses, "genesis", ledger.sign(BUYER, Bond(500 * TOKEN, tip)))
    twice = ledger.sign(BUYER, Bond(600 * TOKEN, tip), Bond(1, tip))
    yield cases.good("bond: in two steps", clauses, "genesis", twice)
    # The proposer's tip changes with the block, so another validator adds to its bond.
    adding = VALIDATORS[3]
    yield cases.good("bond: a validator adds", clauses, "genesis", ledger.sign(adding, Bond(1, onion(adding).tip)))
    for name, key, actions, error in (
        ("below the minimum", BUYER, [Bond(500 * TOKEN - 1, tip)], "StakeTooLow"),
        ("nothing on top", adding, [Bond(0, onion(adding).tip)], "StakeTooLow"),
        ("another onion", adding, [Bond(1, tip)], "OnionTipChanged"),
        ("more than there is", BUYER, [Bond(BALANCE, tip)], "InsufficientBalance"),
    ):
        yield cases.bad(f"bond: {name}", _BONDS, error, "genesis", ledger.sign(key, *actions))
    yield cases.good("unbond: a part", clauses, "genesis", ledger.sign(leaver, Unbond(400 * TOKEN)))
    both = ledger.sign(leaver, Unbond(400 * TOKEN), Unbond(600 * TOKEN))
    yield cases.good("unbond: all in two steps", clauses, "genesis", both)
    for name, key, amounts, error in (
        ("by nobody who has bonded", _ALICE, [TOKEN], "NotAValidator"),
        ("after all is withdrawn", leaver, [1000 * TOKEN, 1], "NotAValidator"),
        ("nothing", leaver, [0], "StakeTooLow"),
        ("more than is bonded", leaver, [1000 * TOKEN + 1], "StakeTooLow"),
        ("so that less than the minimum stays", leaver, [500 * TOKEN + 1], "StakeTooLow"),
        ("seventeen times", leaver, [TOKEN] * 17, "LimitReached"),
    ):
        yield cases.bad(f"unbond: {name}", _BONDS, error, "genesis", ledger.sign(key, *map(Unbond, amounts)))


def _offers(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    key = VALIDATORS[3]
    for name, action in (
        ("all of it", OfferStorage(10**12, "example.org", "192.0.2.0/24")),
        ("without labels", OfferStorage(2**62, "", "")),
        ("nothing", OfferStorage(0, "\u00fc" * 64, "y" * 64)),
    ):
        yield cases.good(f"offer storage: {name}", (*_OFFERS, *_PAYS), "genesis", ledger.sign(key, action))
    again = cases.on("unbonding").sign(VALIDATORS[1], OfferStorage(5, "", "z"))
    yield cases.good("offer storage: anew in a later epoch", _OFFERS, "unbonding", again)
    before = cases.on("bonded")
    offer = OfferStorage(5, "", "")
    for name, state, sender, error in (
        ("by nobody who has bonded", "genesis", _ALICE, "NotAValidator"),
        ("after all is withdrawn", "bonded", VALIDATORS[0], "NotAValidator"),
        ("twice in an epoch", "bonded", VALIDATORS[1], "AlreadyDone"),
    ):
        signed = (ledger if state == "genesis" else before).sign(sender, offer)
        yield cases.bad(f"offer storage: {name}", _OFFERS, error, state, signed)
    long = ledger.sign(key, OfferStorage(5, "x" * 65, ""))
    yield cases.bad("offer storage: a label of 65 characters", _OFFERS, "MalformedMessage", "genesis", long)


def _epochs(cases: Cases) -> Iterator[Json]:
    yield cases.good("the last block of an epoch", (*_EPOCH, *_BLOCK), "bonded", [])
    yield cases.good("the block that pays out", _RELEASE, "unbonding", [])


def _proposals(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    clauses = (*_PROPOSE, *_SEATS, *_PAYS)
    for name, action in (
        ("one segment", _proposal("t", "x")),
        ("two segments", _proposal("\u00fc" * 64, "x", "y")),
        ("with the least stake", _proposal("", "x", stake=10 * TOKEN)),
    ):
        yield cases.good(f"propose: {name}", clauses, "genesis", ledger.sign(INFORMANT, action))
    for name, action, error in (
        ("too little stake", _proposal("t", "x", stake=10 * TOKEN - 1), "StakeTooLow"),
        ("a segment of 0 bytes", _sized(0), "BadSegmentSize"),
        ("a segment of 4,097 bytes", _sized(4097), "BadSegmentSize"),
        ("a segment twice", _proposal("t", "x", "x"), "DuplicateSegment"),
        ("more stake than there is", _proposal("t", "x", stake=BALANCE), "InsufficientBalance"),
        ("no segments", _proposal("t"), "MalformedMessage"),
        ("65 segments", _proposal("t", *(f"s{number}" for number in range(65))), "MalformedMessage"),
        ("a title of 65 characters", _proposal("t" * 65, "x"), "MalformedMessage"),
    ):
        yield cases.bad(f"propose: {name}", _PROPOSE, error, "genesis", ledger.sign(INFORMANT, action))
    again = cases.on("committing").sign(_ALICE, _proposal("t", "segment a"))
    yield cases.bad("propose: a segment being voted on", _PROPOSE, "DuplicateSegment", "committing", again)
    both = [*ledger.sign(_ALICE, _proposal("t", "x")), *ledger.sign(_BOB, _proposal("u", "x"))]
    yield cases.bad("propose: one segment by two", _PROPOSE, "DuplicateSegment", "genesis", both)


def _sized(size: int) -> ProposeData:
    return replace(_proposal("t", "x"), segments=(SegmentRef(digest_of("x"), size),))


def _commits(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("committing"), "committing"
    clauses = (*_PROPOSE, *_COMMITMENT)
    one = ledger.sign(VALIDATORS[1], _commit(ledger, VALIDATORS[1], "accepted"))
    yield cases.good("commit a vote", clauses, state, one)
    rest = [ledger.sign(key, _commit(ledger, key, "accepted"))[0] for key in VALIDATORS[1:]]
    yield cases.good("the last votes are committed", (*clauses, *_PHASES), state, rest)
    for name, key, action, error in (
        ("twice", VALIDATORS[0], _commit(ledger, VALIDATORS[0], "accepted"), "AlreadyDone"),
        ("not in the committee", BUYER, _commit(ledger, BUYER, "accepted"), "NotInCommittee"),
        ("no such proposal", VALIDATORS[1], CommitVote(digest_of("no"), digest_of("x")), "UnknownProposal"),
    ):
        yield cases.bad(f"commit a vote: {name}", _PROPOSE, error, state, ledger.sign(key, action))
    late = cases.on("revealing")
    missed = late.sign(VALIDATORS[0], _commit(late, VALIDATORS[0], "contested"))
    yield cases.bad("commit a vote: too late", _PROPOSE, "WrongPhase", "revealing", missed)
    early = _ballot(_id(ledger, "accepted"), "accepted", 2)
    yield cases.bad("reveal a vote: too early", _PROPOSE, "WrongPhase", state, ledger.sign(VALIDATORS[0], early))


def _reveals(cases: Cases) -> Iterator[Json]:
    ledger, state = cases.on("revealing"), "revealing"
    ballots = {title: _ballot(_id(ledger, title), title, 2 if title == "accepted" else 1) for title in _OUTCOMES}
    clauses = (*_PROPOSE, *_COMMITMENT)
    one = ledger.sign(VALIDATORS[0], ballots["accepted"])
    yield cases.good("reveal a vote", clauses, state, one)
    three = [ledger.sign(key, ballots["accepted"])[0] for key in VALIDATORS[:3]]
    yield cases.good("two thirds have revealed: grace", ("11.4/5",), state, three)
    for title in _OUTCOMES:
        keys = VALIDATORS if title != "contested" else VALIDATORS[3:]
        all_ = [ledger.sign(key, ballots[title])[0] for key in keys]
        yield cases.good(f"decided: {title}", (*_DECIDE, *_SEGMENTS, *_PHASES, *_MONEY), state, all_)
    good = ballots["accepted"]
    for name, key, actions, error in (
        ("twice", VALIDATORS[0], [good, good], "AlreadyDone"),
        ("without a commitment", VALIDATORS[0], [ballots["contested"]], "NothingCommitted"),
        ("another salt", VALIDATORS[0], [replace(good, salt=digest_of("other"))], "CommitmentMismatch"),
        ("another verdict", VALIDATORS[0], [replace(good, accept=False)], "CommitmentMismatch"),
        ("not in the committee", BUYER, [good], "NotInCommittee"),
        ("no such proposal", VALIDATORS[0], [replace(good, proposal=digest_of("no"))], "UnknownProposal"),
    ):
        yield cases.bad(f"reveal a vote: {name}", _PROPOSE, error, state, ledger.sign(key, *actions))


def _licences(cases: Cases) -> Iterator[Json]:
    ledger = cases.on("genesis")
    price = PARAMS.price_base
    yield cases.good("licence", _LICENCE, "genesis", ledger.sign(BUYER, BuyLicence(0, price)))
    renewed = ledger.sign(BUYER, BuyLicence(0, price), BuyLicence(0, 2**62))
    yield cases.good("licence: renewed", _LICENCE, "genesis", renewed)
    by_validator = ledger.sign(VALIDATORS[0], BuyLicence(0, price))
    yield cases.good("licence: a validator buys", _LICENCE, "genesis", by_validator)
    less = ledger.sign(VALIDATORS[3], OfferStorage(10**9, "", ""))
    nothing = [data for key in VALIDATORS for data in ledger.sign(key, OfferStorage(0, "", ""))]
    for name, offers in (("one holds less than its stake", less), ("nobody holds anything", nothing)):
        both = [*offers, *ledger.sign(BUYER, BuyLicence(0, price))]
        yield cases.good(f"licence: {name}", _LICENCE, "genesis", both)
    for name, key, action, error in (
        ("another version", BUYER, BuyLicence(1, price), "WrongVersion"),
        ("a price too high", BUYER, BuyLicence(0, price - 1), "PriceAboveLimit"),
        ("no money", STRANGER, BuyLicence(0, price), "InsufficientBalance"),
    ):
        yield cases.bad(f"licence: {name}", _LICENCE, error, "genesis", ledger.sign(key, action))


def _blocks(cases: Cases) -> Iterator[Json]:
    yield cases.good("an empty block", (*_BLOCK, "11.8/2", "11.8/3"), "genesis", [])
    for name, context in (
        ("a preimage of zeros", {"onion_preimage": bytes(32).hex()}),
        ("the tip for a preimage", {"onion_preimage": onion(VALIDATORS[1]).tip.hex()}),
        ("a proposer that isn't a validator", {"proposer": _ALICE.address.hex()}),
        ("the height of the parent", {"height": 0}),
        ("a height too high", {"height": 2}),
    ):
        yield cases.bad(f"block: {name}", ("11.7/2",), "InvalidBlock", "genesis", [], **context)
