"""Light client: follow the chain by headers, commit certificates and validator sets alone.

Sequential verification takes the next header: its validators must be those the trusted header announced. Skipping
verification takes any later one: more than a third of the power trusted now must have signed it (so at least one
honest validator has, while the trusted ones still have stake to lose), and more than two thirds of its own set
(Braithwaite et al., arXiv 2010.07031, section 3). Trust lasts for the trusting period, which genesis sets shorter than
the unbonding delay. Time is an argument.

`light_client` makes a client of it, which asks peers and compares what they show.
"""

from __future__ import annotations

from deepshard.consensus.blocks import BLOCK_VERSION
from deepshard.consensus.certificates import InvalidCertificate, verify_certificate
from deepshard.consensus.types import CommitCertificate, Header
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import Record, decode
from deepshard.errors import LocalError, RemoteError
from deepshard.limits import (
    CERTIFICATE_BYTES_MAX,
    CLOCK_DRIFT_MS_MAX,
    HEADER_BYTES_MAX,
    VALIDATOR_SET_BYTES_MAX,
)
from deepshard.primitives import Digest, Height


class InvalidLightBlock(RemoteError):
    """A light block that contradicts itself or what we trust."""

    penalty = 50


class InsufficientTrust(RemoteError):
    """A skip too far: a third or less of the trusted power signed. Ask for a header in between; nobody erred."""

    penalty = 0

    def __init__(self, trusted_height: int, height: int, power: int, total_power: int) -> None:
        super().__init__(
            f"header {height} is signed by power {power} of {total_power} trusted since height {trusted_height}, "
            "more than 1/3 is needed: verify a header in between first"
        )
        self.trusted_height, self.height, self.power, self.total_power = trusted_height, height, power, total_power


class TrustExpired(LocalError):
    """What we trust is older than the trusting period, so its signers may have nothing left to lose."""

    def __init__(self, trusted_height: int, age_ms: int, trusting_period_ms: int) -> None:
        super().__init__(
            f"what is trusted, height {trusted_height}, is {_duration(age_ms)} old, and trust lasts "
            f"{_duration(trusting_period_ms)} on this network: take height and block id of a recent block from "
            "somebody you trust, and give them as --trust HEIGHT:ID"
        )
        self.trusted_height, self.age_ms, self.trusting_period_ms = trusted_height, age_ms, trusting_period_ms


class WrongTrustedHeader(LocalError):
    """A peer's header is not the one that a person named: the peer lies, or the person was told wrong."""

    def __init__(self, height: int, expected: bytes, shown: bytes) -> None:
        super().__init__(f"the header of height {height} that a peer shows is {shown.hex()}, not {expected.hex()}")
        self.height, self.expected, self.shown = height, expected, shown


class LightBlock(Record, frozen=True):
    """A header, the certificate of its block, and the validators of its height."""

    header: Header
    certificate: CommitCertificate
    validators: ValidatorSet


class LightState(Record, frozen=True):
    """What a light client trusts; at height 0 the genesis, with its hash for the block id and no header.

    `validators` are those of `height`; at height 0 those of height 1.
    """

    chain_id: str
    height: Height
    block_id: Digest
    time_ms: Height
    validators: ValidatorSet
    next_validators_hash: Digest
    header: Header | None


def trust_genesis(chain_id: str, genesis_hash: bytes, time_ms: int, validators: ValidatorSet) -> LightState:
    """Where every light client starts."""
    return LightState(chain_id, 0, genesis_hash, time_ms, validators, validators.hash(), None)


def trust_header(
    chain_id: str, block: LightBlock, block_id: bytes, *, now_ms: int, trusting_period_ms: int
) -> LightState:
    """Trust a header because a person vouches for its id; what comes with it is still checked.

    Raises:
        WrongTrustedHeader: its id isn't `block_id`.
        InvalidLightBlock: of another chain or time, or with validators or a certificate that aren't its own.
        TrustExpired: it is too old.
    """
    shown = block.header.block_id()
    if shown != block_id:
        raise WrongTrustedHeader(block.header.height, block_id, shown)
    _check_block(chain_id, -1, block, now_ms)
    trusted = trusted_state(chain_id, block)
    check_trust(trusted, now_ms, trusting_period_ms)
    return trusted


def decode_light_block(header: bytes, certificate: bytes, validators: bytes) -> LightBlock:
    """Decode a light block from its three parts, each within its own bound.

    Raises:
        OversizedMessage: a part is too long.
        MalformedMessage: a part is no canonical encoding of what it should be.
    """
    return LightBlock(
        decode(header, Header, bytes_max=HEADER_BYTES_MAX),
        decode(certificate, CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX),
        decode(validators, ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX),
    )


def verify_sequential(trusted: LightState, block: LightBlock, *, now_ms: int, trusting_period_ms: int) -> LightState:
    """Verify the header right after the trusted one.

    Raises:
        TrustExpired: the trusted header is too old.
        InvalidLightBlock: not the next height, not its child, of other validators than announced, or forged.
    """
    check_trust(trusted, now_ms, trusting_period_ms)
    header = block.header
    if header.height != trusted.height + 1:
        raise InvalidLightBlock(f"header {header.height}, expected {trusted.height + 1}")
    if header.parent_id != trusted.block_id:
        raise InvalidLightBlock(
            f"header {header.height} has parent {header.parent_id.hex()}, trusted is {trusted.block_id.hex()}"
        )
    if header.validators_hash != trusted.next_validators_hash:
        raise InvalidLightBlock(f"header {header.height} has other validators than header {trusted.height} announced")
    _check_block(trusted.chain_id, trusted.time_ms, block, now_ms)
    return trusted_state(trusted.chain_id, block)


def verify_skipping(trusted: LightState, block: LightBlock, *, now_ms: int, trusting_period_ms: int) -> LightState:
    """Verify any later header; the next one is verified sequentially.

    Raises:
        TrustExpired: the trusted header is too old.
        InsufficientTrust: too few of the trusted validators signed; a header in between may lead there.
        InvalidLightBlock: not later than the trusted header, or forged.
    """
    if block.header.height == trusted.height + 1:
        return verify_sequential(trusted, block, now_ms=now_ms, trusting_period_ms=trusting_period_ms)
    check_trust(trusted, now_ms, trusting_period_ms)
    if block.header.height <= trusted.height:
        raise InvalidLightBlock(f"header {block.header.height} is not later than the trusted {trusted.height}")
    # An address is the hash of its key, so signers shared by address are shared by key. A signer named twice would be
    # counted twice here; the certificate check refuses it, and a set makes the sum right without relying on that.
    signers = {entry.validator for entry in block.certificate.signatures}
    power = sum(trusted.validators.power_of(address) for address in signers)
    if not trusted.validators.has_honest(power):
        raise InsufficientTrust(trusted.height, block.header.height, power, trusted.validators.total_power)
    _check_block(trusted.chain_id, trusted.time_ms, block, now_ms)
    return trusted_state(trusted.chain_id, block)


def check_trust(trusted: LightState, now_ms: int, trusting_period_ms: int) -> None:
    """Check that a trusted state is young enough to verify from.

    Raises:
        TrustExpired: it isn't.
    """
    age_ms = now_ms - trusted.time_ms
    if age_ms >= trusting_period_ms:
        raise TrustExpired(trusted.height, age_ms, trusting_period_ms)


def _check_block(chain_id: str, trusted_time_ms: int, block: LightBlock, now_ms: int) -> None:
    header = block.header
    if header.version != BLOCK_VERSION or header.chain_id != chain_id:
        raise InvalidLightBlock(
            f"header {header.height} is of version {header.version} and chain {header.chain_id!r}, "
            f"expected {BLOCK_VERSION} and {chain_id!r}"
        )
    if not trusted_time_ms < header.time_ms <= now_ms + CLOCK_DRIFT_MS_MAX:
        raise InvalidLightBlock(
            f"header {header.height} has time {header.time_ms}, trusted is {trusted_time_ms}, now {now_ms} ms"
        )
    if header.validators_hash != block.validators.hash():
        raise InvalidLightBlock(f"header {header.height} comes with validators that aren't its own")
    try:
        verify_certificate(chain_id, block.validators, block.certificate, header.block_id(), header.height)
    except InvalidCertificate as error:
        raise InvalidLightBlock(f"header {header.height}: {error}") from error


def trusted_state(chain_id: str, block: LightBlock) -> LightState:
    """What is trusted once `block` has been verified."""
    header = block.header
    return LightState(
        chain_id,
        header.height,
        header.block_id(),
        header.time_ms,
        block.validators,
        header.next_validators_hash,
        header,
    )


def _duration(ms: int) -> str:
    for unit, size in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000)):
        if ms >= 2 * size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:g} s"
