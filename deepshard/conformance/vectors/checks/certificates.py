"""Checks of `certificates.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.check import Fields
from deepshard.conformance.vectors.document import Json
from deepshard.conformance.vectors.read import read_validators
from deepshard.consensus.certificates import certificate_hash, verify_certificate
from deepshard.consensus.types import CommitCertificate, Validator
from deepshard.consensus.validators import ValidatorSet
from deepshard.encoding import decode, encode
from deepshard.identity import SecretKey
from deepshard.limits import CERTIFICATE_BYTES_MAX, VALIDATOR_SET_BYTES_MAX


def check(case: Fields) -> Json:
    """Decode a set, compare thresholds, or verify a certificate."""
    if case["operation"] == "set":
        validators = decode(case.data("encoded"), ValidatorSet, bytes_max=VALIDATOR_SET_BYTES_MAX)
        listed = {"validators": validators.validators, "hash": validators.hash()}
        return {"encoded": encode(validators), "total_power": validators.total_power, **listed}
    if case["operation"] == "thresholds":
        return _thresholds(case.number("total_power"), case.number("least_quorum"), case.number("least_honest"))
    certificate = decode(case.data("encoded"), CommitCertificate, bytes_max=CERTIFICATE_BYTES_MAX)
    validators = read_validators({"validators": case["validators"]})
    block_id, height = case.data("block_id"), case.number("height")
    verify_certificate(case.shared["chain_id"], validators, certificate, block_id, height)
    return {"certificate": certificate, "encoded": encode(certificate), "hash": certificate_hash(certificate)}


def _thresholds(total: int, quorum: int, honest: int) -> Json:
    """Both as far as they are where the answer changes."""
    key = SecretKey(bytes(32))
    validators = ValidatorSet((Validator(key.address, key.public, total),))
    is_least_quorum = validators.is_quorum(quorum) and not validators.is_quorum(quorum - 1)
    is_least_honest = validators.has_honest(honest) and not validators.has_honest(honest - 1)
    return {"least_quorum": quorum if is_least_quorum else -1, "least_honest": honest if is_least_honest else -1}
