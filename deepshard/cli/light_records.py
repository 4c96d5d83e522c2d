"""Records that a light client proves: each with the verified header whose state root the proof leads to."""

from __future__ import annotations

from typing import Any

from deepshard.cli.light_session import LightSession, proving
from deepshard.cli.light_view import when
from deepshard.errors import LocalError
from deepshard.ledger.keys import account_key, chain_key, licence_key, model_key, validator_key
from deepshard.ledger.records import Account, Chain, Licence, ModelVersion, ValidatorRecord
from deepshard.primitives import format_address
from deepshard.services.light import LightClient

Json = dict[str, Any]


async def read_balance(session: LightSession, *, address: bytes) -> Json:
    """An account, and its bond as a validator.

    Raises:
        CommandFailed: no peer proved it.
    """
    client = session.client
    with proving():
        height, account = await client.proven(account_key(address), Account)
        _, bond = await client.proven(validator_key(address), ValidatorRecord)
        proof = await _header_of(client, height)
    found = account or Account()
    return {
        "address": format_address(address),
        "exists": account is not None,
        "balance": found.balance,
        "locked": found.locked,
        "unbonding": sum(entry.amount for entry in found.unbonding),
        "bonded": 0 if bond is None else bond.stake,
        "nonce": found.nonce,
        "proven_in": proof,
    }


async def read_licence(session: LightSession, *, address: bytes) -> Json:
    """The licence of an account, and whether it covers the current weights.

    Raises:
        CommandFailed: no peer proved it.
    """
    client = session.client
    with proving():
        height, licence = await client.proven(licence_key(address), Licence)
        model = await client.current_model()
        proof = await _header_of(client, height)
    answer: Json = {"address": format_address(address), "licensed": licence is not None}
    if licence is not None:
        answer |= {
            "first_version": licence.first_version,
            "last_version": licence.last_version,
            "price": licence.price,
            "bought_at": licence.height,
            "covers_current": licence.first_version <= model.version <= licence.last_version,
        }
    return answer | {"current_version": model.version, "proven_in": proof}


async def read_manifest(session: LightSession) -> Json:
    """The newest accepted weights.

    Raises:
        CommandFailed: no peer proved them.
    """
    client = session.client
    with proving():
        _, chain = await client.proven(chain_key(), Chain)
        height, model = (0, None) if chain is None else await client.proven(model_key(chain.version), ModelVersion)
        proof = await _header_of(client, height)
    if model is None:
        raise LocalError("the chain has no weights recorded")
    return {
        "version": model.version,
        "manifest": model.manifest.hex(),
        "weights_root": model.weights_root.hex(),
        "accepted_at": model.height,
        "value": model.value,
        "proven_in": proof,
    }


async def _header_of(client: LightClient, height: int) -> Json:
    """The verified header of the state that a proof was checked against; genesis has none."""
    if height == 0:
        return {"height": 0}
    header = await client.header(height)
    return {
        "height": height,
        "block_id": header.block_id().hex(),
        "time": when(header.time_ms),
        "state_root": header.state_root.hex(),
    }
