"""Where each record lives in the state tree. Light clients ask for proofs by these keys.

| key | record |
|---|---|
| `chain`, `supply`, `params` | `Chain`, `Supply`, `Params` |
| `active` | `ActiveSet`: the validators of the next height |
| `agenda` | `Agenda`: proposals that the end of a block has to look at |
| `account/` address | `Account` |
| `validator/` address | `ValidatorRecord` |
| `conviction/` address | `Conviction` of a validator |
| `epoch/` number | `ActiveSet` of an epoch for which evidence is still taken |
| `release/` height, address | empty tuple: stake to pay out at that height |
| `proposal/` id | `DataProposal` |
| `committee/` id | `Committee` of a proposal, with the stake its votes weigh |
| `vote/` id, voter | `RevealVote` |
| `segment/` digest | `SegmentRecord` |
| `pool/` name `/` index | digest of a probe text |
| `pool-member/` name `/` digest | empty tuple: the text is in the pool |
| `pool-size/` name | number of texts in a pool |
| `round/` number | `TrainingRound` |
| `scoring/` number | `RoundScoring` |
| `report/` number, validator | `ReportScores` |
| `model/` version | `ModelVersion` |
| `licence/` address | `Licence` |
| `storage/` address | `StorageOffer` of a validator |
| `audit/` epoch | `Audit` |

Numbers in keys are 8 bytes, big-endian, so that the order of keys is the order of numbers.
"""

from __future__ import annotations

from typing import Final

CHAIN: Final = b"chain"
SUPPLY: Final = b"supply"
PARAMS: Final = b"params"
ACTIVE: Final = b"active"
AGENDA: Final = b"agenda"
ACCOUNTS: Final = b"account/"
VALIDATORS: Final = b"validator/"
CONVICTIONS: Final = b"conviction/"
PROPOSALS: Final = b"proposal/"
ROUNDS: Final = b"round/"
LICENCES: Final = b"licence/"
AUDITS: Final = b"audit/"
STORAGE: Final = b"storage/"


def _number(value: int) -> bytes:
    return value.to_bytes(8, "big")


def chain_key() -> bytes:
    """Key of the `Chain` record."""
    return CHAIN


def account_key(address: bytes) -> bytes:
    """Key of an `Account`."""
    return ACCOUNTS + address


def validator_key(address: bytes) -> bytes:
    """Key of a `ValidatorRecord`."""
    return VALIDATORS + address


def conviction_key(address: bytes) -> bytes:
    """Key of the `Conviction` of a validator."""
    return CONVICTIONS + address


def epoch_key(epoch: int) -> bytes:
    """Key of the `ActiveSet` of an epoch."""
    return b"epoch/" + _number(epoch)


def releases_prefix(height: int) -> bytes:
    """Prefix of the addresses whose stake is released at `height`."""
    return b"release/" + _number(height)


def release_key(height: int, address: bytes) -> bytes:
    """Key of the mark that `address` has stake to release at `height`."""
    return releases_prefix(height) + address


def proposal_key(proposal: bytes) -> bytes:
    """Key of a `DataProposal`."""
    return PROPOSALS + proposal


def committee_key(proposal: bytes) -> bytes:
    """Key of a proposal's `Committee`."""
    return b"committee/" + proposal


def vote_key(proposal: bytes, voter: bytes) -> bytes:
    """Key of a revealed vote."""
    return b"vote/" + proposal + voter


def segment_key(digest: bytes) -> bytes:
    """Key of a `SegmentRecord`."""
    return b"segment/" + digest


def pool_key(pool: str, index: int) -> bytes:
    """Key of the text number `index` of a pool."""
    return b"pool/" + pool.encode() + b"/" + _number(index)


def pool_member_key(pool: str, digest: bytes) -> bytes:
    """Key of the mark that a text is in a pool."""
    return b"pool-member/" + pool.encode() + b"/" + digest


def pool_size_key(pool: str) -> bytes:
    """Key of the number of texts in a pool."""
    return b"pool-size/" + pool.encode()


def round_key(number: int) -> bytes:
    """Key of a `TrainingRound`."""
    return ROUNDS + _number(number)


def scoring_key(number: int) -> bytes:
    """Key of a round's `RoundScoring`."""
    return b"scoring/" + _number(number)


def report_key(number: int, validator: bytes) -> bytes:
    """Key of a validator's report on a round."""
    return b"report/" + _number(number) + validator


def model_key(version: int) -> bytes:
    """Key of a `ModelVersion`."""
    return b"model/" + _number(version)


def licence_key(address: bytes) -> bytes:
    """Key of the licence of the account `address`."""
    return LICENCES + address


def storage_key(address: bytes) -> bytes:
    """Key of a validator's `StorageOffer`."""
    return STORAGE + address


def audit_key(epoch: int) -> bytes:
    """Key of the `Audit` of an epoch."""
    return AUDITS + _number(epoch)
