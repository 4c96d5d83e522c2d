"""Validators that contradict themselves: evidence on chain, what it costs, jail and the way out of it.

One conviction covers all that a validator did up to the end of the epoch of the report. Until then it may still be in
the active set, and more evidence of the same crime is no more crime. What is lost goes to the treasury: a reporter that
got a share would let the accused report itself, and a burn would pay every holder of tokens.

Evidence is taken for `evidence_window` blocks. Stake that is withdrawn at height u votes until u + epoch_blocks - 1 at
most, and is paid out at u + unbonding_blocks: so what voted can be punished for as long as evidence is taken.
"""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.encoding import encode
from deepshard.evidence import Evidence, offence_of, verify_evidence
from deepshard.ledger import funds, keys
from deepshard.ledger.call import Call
from deepshard.ledger.faults import AlreadyConvicted, EvidenceOutOfTime, NotAValidator, NotJailed, StillJailed
from deepshard.ledger.params import Params
from deepshard.ledger.records import Conviction, Unbonding
from deepshard.ledger.state import Draft, View
from deepshard.ledger.transactions import ReportEvidence, Unjail
from deepshard.primitives import format_address, tagged_hash


def evidence_id(evidence: Evidence) -> bytes:
    """Identifier of evidence, the subject of its receipt."""
    return tagged_hash("evidence", encode(evidence))


def evidence_window(params: Params) -> int:
    """Evidence of an offence is taken in the block of its height and in so many after it."""
    return params.unbonding_blocks - params.epoch_blocks


def check_punishable(view: View, accused: bytes, offence_height: int, height: int) -> None:
    """Check that a report of an offence in the block at `height` would change something; evidence isn't looked at.

    Raises:
        EvidenceOutOfTime: too old, or of a height to come.
        NotAValidator: the accused was none at that height.
        AlreadyConvicted: a conviction covers it.
    """
    params = view.params()
    first = max(1, height - evidence_window(params))
    if not first <= offence_height <= height:
        raise EvidenceOutOfTime(offence_height, first, height)
    members = view.validators_of_epoch(offence_height // params.epoch_blocks)
    if members is None or all(entry.address != accused for entry in members.validators):
        raise NotAValidator(accused)
    conviction = view.conviction(accused)
    if conviction is not None and offence_height <= conviction.covered_height:
        raise AlreadyConvicted(accused, conviction.covered_height, offence_height)


def apply_report_evidence(call: Call, action: ReportEvidence) -> None:
    """Convict a validator: it loses a share of its stake, and its place in the set from the next epoch on.

    Only who has a bond reports: it is free, and keys cost nothing.
    """
    # CHECK
    bond = call.draft.validator(call.sender)
    if bond is None or bond.stake == 0:
        raise NotAValidator(call.sender)
    claimed = offence_of(action.evidence)
    check_punishable(call.draft, claimed.validator, claimed.height, call.height)
    offence = verify_evidence(action.evidence, call.chain_id)
    # CHARGE nothing
    # APPLY
    draft, accused, epoch_blocks = call.draft, offence.validator, call.params.epoch_blocks
    bonded, unbonding = slash_stake(draft, accused, call.params.equivocation_slash_bp, 10_000)
    before = draft.conviction(accused)
    conviction = Conviction(
        kind=offence.kind,
        evidence=evidence_id(action.evidence),
        offence_height=offence.height,
        height=call.height,
        covered_height=(call.height // epoch_blocks + 1) * epoch_blocks - 1,
        jailed_until=call.height + call.params.jail_blocks,
        slashed=bonded + unbonding + (before.slashed if before else 0),
        count=1 + (before.count if before else 0),
    )
    draft.write(keys.conviction_key(accused), conviction)
    # RECEIPT
    call.receipts.add(
        "evidence-slash",
        accused,
        conviction.evidence,
        -bonded - unbonding,
        offence.kind,
        offence_height=offence.height,
        offence_round=offence.round,
        reporter=format_address(call.sender),
        bonded=bonded,
        unbonding=unbonding,
        slash_bp=call.params.equivocation_slash_bp,
        covered_height=conviction.covered_height,
        jailed_until=conviction.jailed_until,
    )


def slash_stake(draft: Draft, accused: bytes, part: int, whole: int) -> tuple[int, int]:
    """Move part / whole of the bond, and of each withdrawal that isn't paid out, to the treasury; what each lost."""
    bond, account = draft.validator(accused), draft.account(accused)
    bonded = 0
    if bond is not None:
        bonded = bond.stake * part // whole
        draft.write(keys.validator_key(accused), replace(bond, stake=bond.stake - bonded))
    kept = tuple(
        Unbonding(entry.amount - entry.amount * part // whole, entry.release_height) for entry in account.unbonding
    )
    unbonding = sum(entry.amount for entry in account.unbonding) - sum(entry.amount for entry in kept)
    if kept:
        draft.put_account(accused, replace(account, unbonding=kept))
    funds.to_treasury(draft, bonded + unbonding)
    return bonded, unbonding


def apply_unjail(call: Call, _: Unjail) -> None:
    """Let a validator out of jail; it is in the set again from the next epoch on, if its bond suffices."""
    # CHECK
    conviction = call.draft.conviction(call.sender)
    if conviction is None or conviction.jailed_until == 0:
        raise NotJailed(call.sender)
    if call.height < conviction.jailed_until:
        raise StillJailed(call.sender, conviction.jailed_until, call.height)
    call.require(0)
    # CHARGE
    call.charge_fee()
    # APPLY
    call.draft.write(keys.conviction_key(call.sender), replace(conviction, jailed_until=0))
    # RECEIPT
    bond = call.draft.validator(call.sender)
    call.receipts.add("unjail", call.sender, call.id, 0, "", stake=0 if bond is None else bond.stake)


def keep_epoch(draft: Draft, first_height: int) -> None:
    """Record the set of the epoch that begins at `first_height`; forget the one that evidence can be of no more."""
    params = draft.params()
    draft.write(keys.epoch_key(first_height // params.epoch_blocks), draft.active())
    old = (first_height - evidence_window(params)) // params.epoch_blocks - 1
    if old >= 0:
        draft.write(keys.epoch_key(old), None)
