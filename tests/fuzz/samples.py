"""Valid objects for corpora: small, of every kind, the same in every run."""

from __future__ import annotations

from typing import Any, Final

import consensus_network
from msgspec.structs import replace

from deepshard.ballots import PROPOSAL_TAG, VOTE_TAG, Proposal, Vote, VoteKind, vote_sign_bytes
from deepshard.consensus.blocks import build_header, genesis_tip, tip_of
from deepshard.consensus.light import LightBlock
from deepshard.consensus.types import Block, CommitCertificate, CommitSignature, Header
from deepshard.consensus.validators import ValidatorSet, proposer
from deepshard.encoding import Record, encode
from deepshard.ledger.transactions import Transaction, TransactionBody, Transfer, sign_transaction
from deepshard.ledger.trie import Proof, Trie
from deepshard.ledger.trie_chunks import StateChunk, chunk_at
from deepshard.merkle import MerkleProof, merkle_prove
from deepshard.primitives import ZERO_DIGEST, content_digest
from deepshard.shards.manifest import FileEntry, Manifest, ShardEntry, TensorEntry, TensorSlice
from deepshard.wire.handshake import Claims, Finish, Hello, Refusal, RefusalReason, Reply, SignedClaims
from deepshard.wire.messages import CATALOGUE, Message

CHAIN: Final = "fuzz-chain"
GENESIS: Final = content_digest(b"genesis")
START_MS: Final = 1_000_000
KEYS: Final = {key.address: key for key in consensus_network.secret_keys(4)}
VALIDATORS: Final = consensus_network.validator_set(1, 1, 1, 1)
GENESIS_TIP: Final = genesis_tip(GENESIS, START_MS, VALIDATORS)
DIGEST: Final = content_digest(b"digest")

RECORDS: Final[tuple[type[Record], ...]] = (
    Vote,
    Proposal,
    CommitCertificate,
    ValidatorSet,
    Header,
    Block,
    Transaction,
    TransactionBody,
    Manifest,
    Proof,
    StateChunk,
    MerkleProof,
    Hello,
    Reply,
    Finish,
    Refusal,
    SignedClaims,
)

_FIELDS: Final[dict[str, Any]] = {
    "addresses": ("127.0.0.1:9000", "[::1]:9001", "example.org:9002"),
    "height": 7,
    "topic": 1,
    "backoff_s": 60,
    "ids": (bytes(16), bytes(range(16))),
    "transactions": (b"one", b"another"),
    "proposal": b"proposal",
    "block": b"block",
    "votes": (b"vote", b"another vote"),
    "request": 3,
    "from_height": 1,
    "count": 64,
    "blocks": ((b"block", b"certificate"),),
    "headers": ((b"header", b"certificate", b"validators"),),
    "key": b"account key",
    "value": b"value",
    "proof": b"proof",
    "heights": (50, 100),
    "cursor": DIGEST,
    "common_height": 5,
    "common_id": DIGEST,
    "evidence": b"evidence",
    "chunk": b"chunk",
    "digests": (DIGEST, ZERO_DIGEST),
    "bitmap": b"\x03",
    "digest": DIGEST,
    "status": 0,
    "first_block": 4,
    "block_count": 8,
    "size": 100_000,
}


def message_samples() -> list[Message]:
    """One message of every kind, its fields by their names."""
    found: list[Message] = []
    for kind in CATALOGUE.values():
        fields = {name: _FIELDS[name] for name in kind.__struct_fields__}
        if kind.__name__ == "RangeReply":
            fields["proof"] = (DIGEST,)
        found.append(kind(**fields))
    return found


def signed_vote(kind: VoteKind = VoteKind.PREVOTE, block_id: bytes = DIGEST) -> Vote:
    key = KEYS[VALIDATORS.validators[1].address]
    signature = key.sign(VOTE_TAG, vote_sign_bytes(CHAIN, kind, 1, 0, block_id))
    return Vote(kind, 1, 0, -1, block_id, key.address, signature)


def signed_proposal(valid_round: int = -1) -> Proposal:
    key = KEYS[proposer(VALIDATORS, 1, 1).address]
    unsigned = Proposal(1, 1, valid_round, DIGEST, key.address, bytes(64))
    return replace(unsigned, signature=key.sign(PROPOSAL_TAG, unsigned.sign_bytes(CHAIN)))


def certify(header: Header, signers: int = 4) -> CommitCertificate:
    """A certificate of a header by the first of the validators."""
    block_id = header.block_id()
    message = vote_sign_bytes(CHAIN, VoteKind.PRECOMMIT, header.height, 0, block_id)
    members = [member.address for member in VALIDATORS.validators[:signers]]
    signatures = tuple(CommitSignature(address, KEYS[address].sign(VOTE_TAG, message)) for address in members)
    return CommitCertificate(header.height, 0, block_id, signatures)


def chain_of(blocks: int) -> list[Block]:
    """The first blocks of a chain with constant validators."""
    tip, last_commit, found = GENESIS_TIP, None, []
    for number in range(blocks):
        transactions = (sign_transaction(next(iter(KEYS.values())), CHAIN, number, Transfer(bytes(20), 5)),) * number
        header = build_header(
            chain_id=CHAIN,
            parent=tip,
            now_ms=START_MS + 1000 * number,
            proposer=proposer(VALIDATORS, tip.height + 1, 0).address,
            last_commit=last_commit,
            transactions=transactions,
            state_root=DIGEST,
            receipts_root=DIGEST,
            validators=VALIDATORS,
            next_validators_hash=VALIDATORS.hash(),
            manifest=DIGEST,
            onion_preimage=DIGEST,
        )
        found.append(Block(header, transactions, last_commit))
        tip, last_commit = tip_of(header, VALIDATORS), certify(header)
    return found


def light_block() -> LightBlock:
    header = chain_of(1)[0].header
    return LightBlock(header, certify(header), VALIDATORS)


def small_trie() -> Trie:
    trie = Trie()
    for number in range(20):
        trie = trie.set(f"key {number}".encode(), bytes([number]) * number)
    return trie


LEAVES: Final = tuple(bytes([number]) * number for number in range(7))
MANIFEST: Final = Manifest(
    1,
    ZERO_DIGEST,
    DIGEST,
    (TensorEntry("model.weight", "bf16", (4, 8)), TensorEntry("scale", "f32", ())),
    (
        ShardEntry((TensorSlice(0, 0, 4),), 64, DIGEST, "planes", DIGEST, 60, ZERO_DIGEST),
        ShardEntry((TensorSlice(1, 0, 1),), 4, DIGEST, "raw", DIGEST, 4, ZERO_DIGEST),
    ),
    (FileEntry("config.json", 5, (DIGEST,)),),
)


def record_samples() -> list[Record]:
    """One of each of `RECORDS`, in their order."""
    body = TransactionBody(CHAIN, DIGEST, 0, Transfer(bytes(20), 5))
    hello = Hello(CHAIN, GENESIS, bytes(range(32)), bytes(32), ("ranges",))
    claims = SignedClaims(Claims(DIGEST, ("validator",), "127.0.0.1:9000"), bytes(64))
    block = chain_of(2)[1]
    assert block.last_commit is not None
    return [
        signed_vote(),
        signed_proposal(),
        block.last_commit,
        VALIDATORS,
        block.header,
        block,
        Transaction(encode(body), bytes(64)),
        body,
        MANIFEST,
        small_trie().prove(b"key 7"),
        chunk_at(small_trie(), DIGEST, bytes_max=300),
        merkle_prove(LEAVES, 4),
        hello,
        Reply(hello, bytes(100)),
        Finish(bytes(100)),
        Refusal(RefusalReason.CHAIN_MISMATCH, "fuzz-chain", "other"),
        claims,
    ]
