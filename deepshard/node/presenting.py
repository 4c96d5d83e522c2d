"""Records of the ledger as JSON values: amounts as integers, addresses as text, digests in hexadecimal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from deepshard.consensus.types import Block, CommitCertificate
from deepshard.ledger.accountability import evidence_id
from deepshard.ledger.explain import explain_conviction
from deepshard.ledger.records import Account, DataProposal, Licence, Receipt, TrainingRound
from deepshard.ledger.state import State
from deepshard.primitives import ZERO_DIGEST, address_of, format_address
from deepshard.services.accountability import Held
from deepshard.services.inference import Download
from deepshard.services.shard_map import ShardMap

Json = dict[str, Any]


def validators_json(state: State) -> list[Json]:
    """The active set, and those with a bond that are jailed outside of it."""
    active = [(address, stake, True) for address, _, stake in state.active_validators()]
    inside = {address for address, _, _ in active}
    convictions = dict(state.convictions())
    outside = [
        (address, bond.stake, False)
        for address, conviction in convictions.items()
        if conviction.jailed_until and address not in inside and (bond := state.validator(address)) is not None
    ]
    return [
        {
            "address": format_address(address),
            "stake": stake,
            "active": is_active,
            "jailed_until": (convictions[address].jailed_until or None) if address in convictions else None,
            "slashed": convictions[address].slashed if address in convictions else 0,
        }
        for address, stake, is_active in active + outside
    ]


def evidence_json(state: State, held: Iterable[Held]) -> Json:
    """Evidence that a node holds and the ledger hasn't settled, and who was convicted, the latest first."""
    convictions = sorted(state.convictions(), key=lambda entry: (-entry[1].height, entry[0]))
    return {
        "held": [
            {
                "kind": one.offence.kind,
                "validator": format_address(one.offence.validator),
                "height": one.offence.height,
                "round": one.offence.round,
                "evidence": evidence_id(one.evidence).hex(),
            }
            for one in held
        ],
        "convictions": [
            {"validator": format_address(address), **(explain_conviction(state, address) or {})}
            for address, _ in convictions
        ],
    }


def account_json(address: bytes, account: Account, bonded: int) -> Json:
    """An account and its validator bond."""
    return {
        "address": format_address(address),
        "balance": account.balance,
        "locked": account.locked,
        "unbonding": sum(entry.amount for entry in account.unbonding),
        "bonded": bonded,
        "nonce": account.nonce,
    }


def block_json(block: Block, certificate: CommitCertificate) -> Json:
    """A decided block, and who signed for it."""
    header = block.header
    return {
        "height": header.height,
        "block_id": header.block_id().hex(),
        "time_ms": header.time_ms,
        "proposer": format_address(header.proposer),
        "transactions": len(block.transactions),
        "state_root": header.state_root.hex(),
        "round": certificate.round,
        "signers": [format_address(entry.validator) for entry in certificate.signatures],
    }


def proposal_json(proposal: DataProposal) -> Json:
    """A data proposal and its tally."""
    tally = proposal.tally
    return {
        "id": proposal.id.hex(),
        "proposer": format_address(proposal.proposer),
        "title": proposal.title,
        "language": proposal.language,
        "licence": proposal.licence,
        "stake": proposal.stake,
        "status": proposal.status,
        "opened_height": proposal.opened_height,
        "decided_height": proposal.decided_height,
        "deadline": proposal.deadline,
        "segments": [{"digest": segment.digest.hex(), "size": segment.size} for segment in proposal.segments],
        "committee": [format_address(address) for address in proposal.committee],
        "committed": [format_address(address) for address, _ in proposal.commitments],
        "revealed": [format_address(address) for address in proposal.revealed],
        "tally": None
        if tally is None
        else {
            "rule": tally.rule,
            "accept_bp": tally.accept_bp,
            "threshold_bp": tally.threshold_bp,
            "predicted_bp": tally.predicted_bp,
            "dispersion_bp": tally.dispersion_bp,
            "voters": tally.voters,
            "segments": [
                {"medians": list(segment.medians), "weight_bp": segment.weight_bp} for segment in tally.segments
            ],
        },
    }


def round_json(current: TrainingRound) -> Json:
    """A training round and its trainers."""
    return {
        "number": current.number,
        "base_version": current.base_version,
        "status": current.status,
        "reason": current.reason,
        "opened_height": current.opened_height,
        "deadline": current.deadline,
        "proposals": [identifier.hex() for identifier in current.proposals],
        "batch": [{"digest": segment.digest.hex(), "weight_bp": segment.weight_bp} for segment in current.batch],
        "order_seed": _hex(current.order_seed),
        "probe_seed": _hex(current.probe_seed),
        "reporters": [format_address(address) for address in current.reporters],
        "medoid": None if current.medoid is None else format_address(current.medoid),
        "trainers": [
            {
                "address": format_address(entry.address),
                "stake": entry.stake,
                "committed": entry.commitment != ZERO_DIGEST,
                "manifest": _hex(entry.manifest),
                "weights_root": _hex(entry.weights_root),
                "outcome": entry.outcome,
                "reason": entry.reason,
                "paid": entry.paid,
            }
            for entry in current.trainers
        ],
    }


def licence_json(licence: Licence) -> Json:
    """A licence."""
    return {
        "first_version": licence.first_version,
        "last_version": licence.last_version,
        "price": licence.price,
        "height": licence.height,
    }


def shard_map_json(drawn: ShardMap) -> Json:
    """A map of the shards."""
    return {
        "version": drawn.version,
        "manifest": drawn.manifest.hex(),
        "replication": drawn.replication,
        "shards": [
            asdict(shard) | {"holders": [format_address(address) for address in shard.holders]}
            for shard in drawn.shards
        ],
        "holders": [asdict(holder) | {"address": format_address(holder.address)} for holder in drawn.holders],
        "unsaid": [
            {"network": network, "holders": [format_address(address) for address in members]}
            for network, members in drawn.unsaid
        ],
    }


def download_json(download: Download) -> Json:
    """State of a download of the weights."""
    return {
        "version": download.version,
        "state": download.state,
        "manifest": download.manifest.hex(),
        "weights_root": download.weights_root.hex(),
        "chunks_done": download.chunks_done,
        "chunks_total": download.chunks_total,
        "chunks_verified": download.chunks_verified,
        "bytes_by_peer": {format_address(address_of(key)): size for key, size in download.bytes_by_peer.items()},
        "error": download.error,
    }


def receipt_json(sequence: int, receipt: Receipt) -> Json:
    """A receipt with its sequence number on this node."""
    return {
        "seq": sequence,
        "height": receipt.height,
        "kind": receipt.kind,
        "account": format_address(receipt.account),
        "subject": receipt.subject.hex(),
        "amount": receipt.amount,
        "reason": receipt.reason,
        "facts": dict(receipt.facts),
    }


def _hex(digest: bytes) -> str | None:
    return None if digest == ZERO_DIGEST else digest.hex()
