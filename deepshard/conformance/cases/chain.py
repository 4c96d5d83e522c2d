"""Chapter 10: blocks, certificates, headers and proofs that the target gives."""

from __future__ import annotations

from deepshard.conformance import expect
from deepshard.conformance.chain_view import RawHeader, blocks, headers, proof_of, state_root
from deepshard.conformance.harness import Harness
from deepshard.conformance.peer import RawPeer
from deepshard.conformance.registry import Needs, case
from deepshard.conformance.verdicts import CaseSkipped
from deepshard.consensus.certificates import certificate_hash, verify_certificate
from deepshard.consensus.light import trust_genesis, verify_sequential, verify_skipping
from deepshard.consensus.types import Block
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.errors import RemoteError
from deepshard.ledger.keys import account_key
from deepshard.ledger.records import ActiveSet, Supply
from deepshard.ledger.trie import Proof, verify_proof
from deepshard.limits import (
    BLOCK_BYTES_MAX,
    BLOCK_TRANSACTIONS_MAX,
    CERTIFICATE_BYTES_MAX,
    HEADER_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    VALIDATOR_SET_BYTES_MAX,
)
from deepshard.merkle import merkle_root
from deepshard.primitives import ZERO_DIGEST, expand
from deepshard.wire.messages import Headers, HeadersRequest, Status

PROOF_BYTES_MAX = 32 * 1024
RECORD_BYTES_MAX = 256 * 1024
YEARS_MS = 10**13
NOBODY = expand(b"nobody's account", "conformance", 20)


async def _chain(harness: Harness) -> tuple[RawPeer, list[RawHeader]]:
    peer = await harness.link()
    return peer, await headers(peer, 1, 16)


@case("10.2/1", "10.3/1", title="each header's parent is the one before; the first one's is genesis")
async def parents(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    parent = harness.target.network.genesis_hash
    for height, raw in enumerate(chain, 1):
        header = raw.light.header
        if (header.height, header.parent_id) != (height, parent):
            got = f"height {header.height}, parent {header.parent_id.hex()}"
            raise peer.failed(f"height {height}, parent {parent.hex()}", got)
        parent = header.block_id()


@case("10.3/1", title="headers have version 1, the chain's id, and times that grow")
async def header_fields(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    before = 0
    for raw in chain:
        header = raw.light.header
        if header.version != 1 or header.chain_id != harness.target.network.chain_id or header.time_ms <= before:
            got = f"version {header.version}, chain {header.chain_id!r}, time {header.time_ms} after {before}"
            raise peer.failed("version 1, the chain's id, a later time", got)
        before = header.time_ms


@case("10.3/2", "10.1/2", title="headers name the hash of their validators, and the set that follows")
async def validators_hash(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    announced = chain[0].light.header.validators_hash
    for raw in chain:
        header, validators = raw.light.header, raw.light.validators
        if not header.validators_hash == validators.hash() == announced:
            raise peer.failed("the hash of the set that comes with it and was announced", header.validators_hash.hex())
        if header.proposer not in validators.by_address:
            raise peer.failed("a proposer in the set", header.proposer.hex())
        announced = header.next_validators_hash


@case("10.7/5", "10.1/1", title="the first validators are those of genesis", needs=(Needs.GENESIS,))
async def validators_of_genesis(harness: Harness) -> None:
    genesis = harness.target.genesis
    assert genesis is not None  # the case needs one
    peer, chain = await _chain(harness)
    expected = ValidatorSet.of((each.public_key, each.stake) for each in genesis.validators)
    if chain[0].light.validators != expected:
        raise peer.failed("the validators of genesis", f"{len(chain[0].light.validators.validators)} others")


@case("10.4/1", "10.4/3", "10.4/4", title="each header's certificate is one of its validators' quorum")
async def certificates(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    for raw in chain:
        header, light = raw.light.header, raw.light
        try:
            verify_certificate(header.chain_id, light.validators, light.certificate, header.block_id(), header.height)
        except RemoteError as error:
            raise peer.failed("a valid certificate", str(error)) from None


@case("10.5/4", title="a light client that trusts genesis follows the target's headers one by one")
async def sequential(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    first = chain[0].light
    trusted = trust_genesis(harness.target.network.chain_id, harness.target.network.genesis_hash, 0, first.validators)
    try:
        for raw in chain:
            now_ms = raw.light.header.time_ms
            trusted = verify_sequential(trusted, raw.light, now_ms=now_ms, trusting_period_ms=YEARS_MS)
    except RemoteError as error:
        raise peer.failed("headers that a light client accepts", str(error)) from None


@case("10.5/5", title="a light client skips to a later header of the target")
async def skipping(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    if len(chain) < 3:
        raise CaseSkipped("the target has fewer than three blocks")
    network = harness.target.network
    trusted = trust_genesis(network.chain_id, network.genesis_hash, 0, chain[0].light.validators)
    last = chain[-1].light
    try:
        verify_skipping(trusted, last, now_ms=last.header.time_ms, trusting_period_ms=YEARS_MS)
    except RemoteError as error:
        raise peer.failed("a header that a light client skips to", str(error)) from None


@case("10.5/1", title="the parts of a light block keep to their bounds")
async def sizes(harness: Harness) -> None:
    peer, chain = await _chain(harness)
    for raw in chain:
        bounds = (HEADER_BYTES_MAX, CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX)
        if any(len(part) > bound for part, bound in zip(raw.parts, bounds, strict=True)):
            raise peer.failed(f"parts of at most {bounds} bytes", f"{[len(part) for part in raw.parts]} bytes")


@case("6.4/17", title="headers below 1 are taken for 1, and none are given that aren't there")
async def heights_of_headers(harness: Harness) -> None:
    peer = await harness.link()
    if (await headers(peer, 0, 4))[0].light.header.height != 1:
        raise peer.failed("the header of height 1 first", "another")
    await peer.say(HeadersRequest(5, 2**40, 4))
    reply, _ = await expect.message(peer, Headers, lambda reply: reply.request == 5)
    if reply.headers:
        raise peer.failed("no headers of heights to come", f"{len(reply.headers)} headers")


@case("6.4/14", title="blocks are consecutive, from the height asked for")
async def consecutive(harness: Harness) -> None:
    peer = await harness.link()
    heights = [block.header.height for block, _ in await blocks(peer, 2, 16)]
    if heights != list(range(2, 2 + len(heights))):
        raise peer.failed("consecutive heights from 2", str(heights))


async def _blocks(harness: Harness) -> tuple[RawPeer, list[Block]]:
    peer = await harness.link()
    found = await blocks(peer, 1, 16)
    for block, certificate in found:
        if (certificate.height, certificate.block_id) != (block.header.height, block.header.block_id()):
            raise peer.failed("the block's own certificate", f"that of height {certificate.height}", "10.4/1")
    return peer, [block for block, _ in found]


@case("10.2/5", "10.3/4", title="a block's transactions are those of its root")
async def transactions_root(harness: Harness) -> None:
    peer, found = await _blocks(harness)
    for block in found:
        if merkle_root(block.transactions) != block.header.transactions_root:
            raise peer.failed("the root of the transactions", f"another in block {block.header.height}")


@case("10.2/4", "10.3/5", title="a block carries the certificate of its parent, none at height 1")
async def last_commit(harness: Harness) -> None:
    peer, found = await _blocks(harness)
    parent = ZERO_DIGEST
    for block in found:
        header, certificate = block.header, block.last_commit
        if header.last_commit_hash != certificate_hash(certificate) or (certificate is None) != (header.height == 1):
            raise peer.failed("last_commit, and its hash in the header", f"another at height {header.height}")
        if certificate is not None and (certificate.height, certificate.block_id) != (header.height - 1, parent):
            raise peer.failed("the certificate of the parent", f"one of height {certificate.height}")
        parent = header.block_id()


@case("10.3/3", title="blocks keep to their bounds")
async def block_bounds(harness: Harness) -> None:
    peer, found = await _blocks(harness)
    for block in found:
        longest = max(map(len, block.transactions), default=0)
        if (
            len(encode(block)) > BLOCK_BYTES_MAX
            or len(block.transactions) > BLOCK_TRANSACTIONS_MAX
            or longest > TRANSACTION_BYTES_MAX
        ):
            raise peer.failed("a block within its bounds", f"{len(encode(block))} bytes")


@case("10.2/1", title="Blocks and Headers show the same chain")
async def same_chain(harness: Harness) -> None:
    peer, found = await _blocks(harness)
    for block, raw in zip(found, await headers(peer, 1, 16), strict=False):
        if block.header != raw.light.header:
            raise peer.failed("the header of the block", f"another at height {block.header.height}")


async def _verified(harness: Harness, key: bytes) -> tuple[RawPeer, bytes | None]:
    peer = await harness.link()
    reply = await proof_of(peer, key)
    root = await state_root(peer, reply.height)
    try:
        verify_proof(root, key, reply.value, decode(reply.proof, Proof, bytes_max=PROOF_BYTES_MAX))
    except RemoteError as error:
        raise peer.failed("a proof under the state root of its height", str(error)) from None
    return peer, reply.value


@case("10.6/8", "10.6/10", title="the value of {} is proven", each=["chain", "supply", "params", "active", "agenda"])
async def present(harness: Harness, key: str) -> None:
    peer, value = await _verified(harness, key.encode())
    if value is None:
        raise peer.failed(f"a value of {key}", "none")


@case(
    "10.6/9",
    "6.4/19",
    title="the absence of {} is proven",
    each={
        "an account": account_key(NOBODY),
        "the empty key": b"",
        "a key of 128 bytes": bytes(128),
        "a word": b"nothing",
        "a longer key": b"chain\x00",
    },
)
async def absent(harness: Harness, key: bytes) -> None:
    peer, value = await _verified(harness, key)
    if value is not None:
        raise peer.failed("no value", value.hex())


@case("6.4/19", title="a proof is of the newest committed state")
async def newest(harness: Harness) -> None:
    peer = await harness.link()
    status, _ = await expect.message(peer, Status)
    reply = await proof_of(peer, b"chain")
    if reply.height < status.height:
        raise peer.failed(f"a proof of height {status.height} or later", f"one of height {reply.height}")


@case("10.1/4", title="the record of active validators is the set of the next height")
async def active_set(harness: Harness) -> None:
    peer = await harness.link()
    reply = await proof_of(peer, b"active")
    header = (await headers(peer, reply.height, 1))[0].light.header
    try:
        active = decode(reply.value or b"", ActiveSet, bytes_max=RECORD_BYTES_MAX)
        validators = ValidatorSet.of((each.public_key, each.stake) for each in active.validators)
    except RemoteError as error:
        raise peer.failed("an ActiveSet", str(error)) from None
    if validators.hash() != header.next_validators_hash:
        raise peer.failed("the set whose hash the header names as next", validators.hash().hex())


@case("11.1/2", title="the supply adds up")
async def supply(harness: Harness) -> None:
    peer, value = await _verified(harness, b"supply")
    try:
        record = decode(value or b"", Supply, bytes_max=RECORD_BYTES_MAX)
    except RemoteError as error:
        raise peer.failed("a Supply", str(error)) from None
    total = record.genesis + record.minted - record.burned
    if not 0 <= record.treasury <= total:
        raise peer.failed("a treasury within genesis + minted - burned", f"{record.treasury} of {total}")
