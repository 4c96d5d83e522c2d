"""Storage audits: the beacon draws shards, their holders show a block each of what they keep, who doesn't loses stake.

In the middle of each epoch `audits_per_epoch` shards are drawn of the newest version that was accepted before the epoch
began. The manifest isn't in the state, so that the ledger knows only a number until a validator shows the shard's leaf
of the version's chunk tree: with an answer, or alone. Each holder is asked for another block of what it keeps for the
shard, drawn with its address: what the first one answers is of no use to the next.

A holder is due if the shard falls to it by the set of this epoch and by that of the epoch before, both with what
validators offered before this epoch began: whoever has to fetch first has half an epoch at least.
"""

from __future__ import annotations

from msgspec.structs import replace

from deepshard.chunk_tree import ShardChunks, verify_leaf
from deepshard.errors import RemoteError
from deepshard.ledger import keys
from deepshard.ledger.accountability import slash_stake
from deepshard.ledger.call import Call
from deepshard.ledger.faults import AlreadyDone, NotAValidator, NotDrawn, NotDue, UnknownAudit, WrongAnswer, WrongPhase
from deepshard.ledger.params import Params
from deepshard.ledger.receipts import NOBODY, Receipts, audit_subject
from deepshard.ledger.records import Audit, AuditedShard, AuditOutcome, ModelVersion
from deepshard.ledger.sampling import Draws
from deepshard.ledger.state import Draft, View
from deepshard.ledger.storage import settled_candidates
from deepshard.ledger.transactions import AnswerAudit, ShowAudit
from deepshard.limits import AUDITS_KEPT
from deepshard.placement import holders
from deepshard.primitives import tagged_hash
from deepshard.ranges import verify_range


def opening_height(params: Params, epoch: int) -> int:
    """At the end of the block of this height the audit of an epoch is drawn."""
    return epoch * params.epoch_blocks + params.epoch_blocks // 2


def draw_shards(seed: bytes, shard_count: int, count: int) -> tuple[int, ...]:
    """Positions of the shards that are audited: `count` different ones, or all if there are fewer, in their order."""
    return tuple(sorted(Draws(seed, "audit").sample(shard_count, count)))


def drawn_block(seed: bytes, shard: int, holder: bytes, blocks: int) -> int:
    """Which of the `blocks` blocks that are kept for a shard this holder has to show."""
    drawn = tagged_hash("audit block", seed, shard.to_bytes(8, "little"), holder)
    return int.from_bytes(drawn[:8], "little") % blocks


def due_holders(view: View, key: bytes) -> tuple[bytes, ...]:
    """Addresses that have to show in the current epoch that they hold the shard with this key, ordered."""
    replication, epoch = view.params().replication, view.chain().epoch
    before = view.validators_of_epoch(epoch - 1) if epoch else None
    if before is None:
        return ()
    now = holders(key, settled_candidates(view, view.active()), replication)
    earlier = holders(key, settled_candidates(view, before), replication)
    return tuple(sorted(set(now) & set(earlier)))


def audited_model(view: View) -> ModelVersion:
    """The newest version that was accepted before the current epoch began."""
    chain = view.chain()
    began = chain.epoch * view.params().epoch_blocks
    version = chain.version
    while True:
        model = view.model(version)
        assert model is not None
        if version == 0 or model.height < began:
            return model
        version -= 1


def apply_answer_audit(call: Call, action: AnswerAudit) -> None:
    """Show the block that was asked of the sender; a duty of holders that are due, free, once."""
    # CHECK
    audit, drawn = _asked(call, action.epoch, action.leaf)
    if call.sender in drawn.answered:
        raise AlreadyDone(f"answered for shard {drawn.shard} in epoch {audit.epoch}", call.sender)
    if drawn.shown and call.sender not in drawn.due:
        raise NotDue(call.sender, drawn.shard, audit.epoch)
    _check_leaf(call.draft, audit, action.leaf, action.path)
    due = drawn.due if drawn.shown else due_holders(call.draft, action.leaf.key)
    if call.sender not in due:
        raise NotDue(call.sender, drawn.shard, audit.epoch)
    chunk, block = action.leaf.locate(drawn_block(audit.seed, drawn.shard, call.sender, action.leaf.blocks))
    try:
        verify_range(chunk.digest, size=chunk.size, first=block, count=1, data=action.block, proof=action.proof)
    except RemoteError as error:
        raise WrongAnswer(drawn.shard, str(error)) from None
    # CHARGE nothing
    # APPLY
    answered = tuple(sorted((*drawn.answered, call.sender)))
    _put(call.draft, audit, replace(drawn, shown=True, due=due, answered=answered))
    # RECEIPT: the answer in the audit is its own record


def apply_show_audit(call: Call, action: ShowAudit) -> None:
    """Show the leaf of a shard that was drawn, for nobody has; a duty of active validators, free, once a shard."""
    # CHECK
    audit, drawn = _asked(call, action.epoch, action.leaf)
    if drawn.shown:
        raise WrongPhase(f"the leaf of shard {drawn.shard}", "unknown", "shown")
    _check_leaf(call.draft, audit, action.leaf, action.path)
    # CHARGE nothing
    # APPLY
    _put(call.draft, audit, replace(drawn, shown=True, due=due_holders(call.draft, action.leaf.key)))
    # RECEIPT: the shard in the audit is its own record


def _asked(call: Call, epoch: int, leaf: ShardChunks) -> tuple[Audit, AuditedShard]:
    audit = call.draft.audit(epoch)
    if audit is None:
        raise UnknownAudit(epoch)
    if audit.closed:
        raise WrongPhase(f"the audit of epoch {epoch}", "open", "closed")
    if all(entry.address != call.sender for entry in call.draft.active().validators):
        raise NotAValidator(call.sender)
    for drawn in audit.shards:
        if drawn.shard == leaf.position:
            return audit, drawn
    raise NotDrawn(leaf.position, epoch)


def _check_leaf(view: View, audit: Audit, leaf: ShardChunks, path: tuple[bytes, ...]) -> None:
    model = view.model(audit.version)
    assert model is not None
    try:
        verify_leaf(model.chunks_root, model.shard_count, leaf, path)
    except RemoteError as error:
        raise WrongAnswer(leaf.position, str(error)) from None


def _put(draft: Draft, audit: Audit, changed: AuditedShard) -> None:
    shards = tuple(changed if drawn.shard == changed.shard else drawn for drawn in audit.shards)
    draft.write(keys.audit_key(audit.epoch), replace(audit, shards=shards))


def advance_audits(draft: Draft, receipts: Receipts, height: int) -> None:
    """End of a block: draw the epoch's audit, or close it."""
    params, epoch = draft.params(), draft.chain().epoch
    if params.audits_per_epoch == 0:
        return
    opens = opening_height(params, epoch)
    if height == opens and epoch > 0:
        _open(draft, receipts, height)
    elif height == opens + params.audit_blocks:
        audit = draft.audit(epoch)
        if audit is not None:
            _close(draft, receipts, audit)


def _open(draft: Draft, receipts: Receipts, height: int) -> None:
    params, chain, model = draft.params(), draft.chain(), audited_model(draft)
    shards = draw_shards(chain.beacon, model.shard_count, params.audits_per_epoch)
    if not shards:
        return
    audit = Audit(
        epoch=chain.epoch,
        version=model.version,
        seed=chain.beacon,
        opened_height=height,
        deadline=height + params.audit_blocks,
        shards=tuple(AuditedShard(shard, shown=False, due=(), answered=()) for shard in shards),
        outcomes=(),
        closed=False,
    )
    draft.write(keys.audit_key(audit.epoch), audit)
    if chain.epoch >= AUDITS_KEPT:
        draft.write(keys.audit_key(chain.epoch - AUDITS_KEPT), None)
    facts = {"epoch": audit.epoch, "version": audit.version, "deadline": audit.deadline}
    receipts.add("audit-opened", NOBODY, audit_subject(audit.epoch), 0, "", **facts, shards=_listed(shards))


def audit_counts(audit: Audit) -> list[tuple[bytes, tuple[int, ...], tuple[int, ...]]]:
    """Who was due for what in an audit, ordered by address: positions that it was asked for, and failed to show."""
    asked: dict[bytes, list[int]] = {}
    failed: dict[bytes, list[int]] = {}
    for drawn in audit.shards:
        for holder in drawn.due:
            asked.setdefault(holder, []).append(drawn.shard)
            if holder not in drawn.answered:
                failed.setdefault(holder, []).append(drawn.shard)
    return [(holder, tuple(asked[holder]), tuple(failed.get(holder, ()))) for holder in sorted(asked)]


def _close(draft: Draft, receipts: Receipts, audit: Audit) -> None:
    """Take from each holder the part of the slash that it failed to show of what it was asked for."""
    share_bp, subject = draft.params().audit_slash_bp, audit_subject(audit.epoch)
    outcomes: list[AuditOutcome] = []
    for holder, asked, failed in audit_counts(audit):
        bonded, unbonding = slash_stake(draft, holder, share_bp * len(failed), 10_000 * len(asked))
        outcomes.append(AuditOutcome(holder, len(asked), len(failed), bonded, unbonding))
        facts: dict[str, int | str] = {"epoch": audit.epoch, "version": audit.version, "asked": len(asked)}
        if failed:
            facts |= {"failed": len(failed), "shards": _listed(failed)}
            facts |= {"bonded": bonded, "unbonding": unbonding, "slash_bp": share_bp}
            receipts.add("audit-failed", holder, subject, -bonded - unbonding, "not-shown", **facts)
        else:
            receipts.add("audit-passed", holder, subject, 0, "", **facts)
    draft.write(keys.audit_key(audit.epoch), replace(audit, outcomes=tuple(outcomes), closed=True))
    shown = sum(drawn.shown for drawn in audit.shards)
    totals = {"epoch": audit.epoch, "version": audit.version, "shards": len(audit.shards), "shown": shown}
    receipts.add("audit-closed", NOBODY, subject, 0, "", **totals)


def _listed(shards: tuple[int, ...]) -> str:
    return " ".join(map(str, shards))
