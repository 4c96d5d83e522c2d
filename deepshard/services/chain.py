"""The chain actor: hosts the consensus core. One mailbox in, one state machine, effects out.

Every signature passes the guard on disk before it leaves; every block is stored before it is announced; a peer's error
costs the peer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.consensus import core
from deepshard.consensus.certificates import verify_proposal, verify_vote
from deepshard.consensus.events import (
    BuildValue,
    CastVote,
    Decide,
    Effect,
    Equivocation,
    Input,
    ProposalEquivocation,
    ProposalReceived,
    Propose,
    ScheduleTimeout,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import (
    PROPOSAL_TAG,
    VOTE_TAG,
    Block,
    Proposal,
    Step,
    Vote,
    VoteKind,
    vote_sign_bytes,
)
from deepshard.disk.chain import ChainStore
from deepshard.disk.guard import DoubleSignRefused
from deepshard.encoding import decode, encode
from deepshard.errors import InvalidBlock, InvalidTransaction, LocalError, RemoteError
from deepshard.identity import SecretKey
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.limits import BLOCK_BYTES_MAX, BODY_BYTES_MAX, SYNC_BLOCKS_MAX
from deepshard.net.types import NetworkPort, PeerDown, PeerInfo, PeerUp, Received
from deepshard.services.executor import ChainExecutor
from deepshard.services.mempool import Mempool, MempoolFull
from deepshard.services.rebroadcast import VoteRelay
from deepshard.services.view import ChainView
from deepshard.wire.messages import (
    BlockProposal,
    Blocks,
    BlocksRequest,
    Message,
    Status,
    Transactions,
    Votes,
)

_log = structlog.get_logger(__name__)
TICK_S = 0.5
STALL_TICKS = 4
RELAY_DELAY_S = 0.03
MESSAGE_BYTES_MAX = 512


@dataclass(frozen=True, slots=True)
class Pacing:
    """Local timing, none of it part of consensus: pauses between blocks and timeouts that grow by half a round."""

    block_interval_s: float = 0.3
    empty_block_interval_s: float = 1.0
    propose_timeout_s: float = 3.0
    vote_timeout_s: float = 1.0

    def timeout_s(self, step: Step, round_: int) -> float:
        """How long to wait in a step of a round."""
        base = self.propose_timeout_s if step is Step.PROPOSE else self.vote_timeout_s
        return base * (1 + 0.5 * min(round_, 20))


@dataclass(frozen=True, slots=True)
class SubmitTransaction:
    """A local transaction for the mempool and the network."""

    data: bytes
    reply: Reply[None]


@dataclass(frozen=True, slots=True)
class _Tick:
    pass


@dataclass(frozen=True, slots=True)
class _Flush:
    pass


@dataclass(frozen=True, slots=True)
class _BuildDue:
    height: int
    round: int


ChainMessage = Received | PeerUp | PeerDown | SubmitTransaction | TimeoutElapsed | _Tick | _Flush | _BuildDue


class ChainService:
    """A validator's or follower's part in deciding blocks."""

    def __init__(
        self,
        *,
        genesis: Genesis,
        store: ChainStore,
        view: ChainView,
        network: NetworkPort,
        key: SecretKey,
        onion: OnionChain | None,
        pacing: Pacing,
        now_ms: Callable[[], int],
    ) -> None:
        self._genesis = genesis
        self._chain_id = genesis.chain_id
        self._store = store
        self._view = view
        self._network = network
        self._key = key
        self._onion = onion
        self._pacing = pacing
        self._now_ms = now_ms
        self.mailbox: Mailbox[ChainMessage] = Mailbox()
        self._executor = ChainExecutor(genesis, store, view)
        self._mempool = Mempool()
        self._relay = VoteRelay()
        self._proposals: dict[bytes, bytes] = {}
        self._peer_heights: dict[bytes, int] = {}
        self._syncing: tuple[bytes, int] | None = None
        self._request = 0
        self._stalled_ticks = 0
        self._committed_at = 0.0
        self._flush_scheduled = False
        self._timers: trio.Nursery | None = None
        self._core: core.State | None = None

    # -- as seen by other services -----------------------------------------------------------------------------------

    async def account_nonce(self, address: bytes) -> int:
        """Next nonce of an account in the newest committed state."""
        return self._view.state.account(address).nonce

    async def submit(self, transaction: bytes) -> None:
        """Put a transaction into the mempool and send it to the network."""
        reply: Reply[None] = Reply()
        await self.mailbox.put(SubmitTransaction(transaction, reply))
        await reply.get()

    async def changed(self) -> None:
        """Wait for the next committed block."""
        await self._view.changed()

    # -- the actor ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Restore the stored chain and take part until cancelled."""
        self._executor.restore()
        async with trio.open_nursery() as nursery:
            self._timers = nursery
            nursery.start_soon(self._keep_ticking)
            self._committed_at = trio.current_time()
            await self._start_height()
            self._view.caught_up = not self._network.peers()
            while True:
                await self._handle(await self.mailbox.get())

    async def _keep_ticking(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            await self.mailbox.put(_Tick())

    async def _handle(self, message: ChainMessage) -> None:
        match message:
            case Received(peer=peer, message=body):
                try:
                    await self._handle_peer(peer, body)
                except RemoteError as error:
                    self._network.penalise(peer.public_key, error)
            case PeerUp(peer=peer):
                await self._network.send(peer.public_key, Status(self._executor.height))
                await self._share_height(peer)
                pending = tuple(self._mempool.pending()[:64])
                if pending:
                    await self._network.send(peer.public_key, Transactions(pending))
            case PeerDown(peer=peer):
                self._peer_heights.pop(peer.public_key, None)
                if self._syncing is not None and self._syncing[0] == peer.public_key:
                    self._syncing = None
            case SubmitTransaction(data=data, reply=reply):
                self._submit_local(data, reply)
            case TimeoutElapsed():
                await self._feed(message)
            case _Tick():
                await self._tick()
            case _Flush():
                self._flush_scheduled = False
                await self._flush()
            case _BuildDue(height=height, round=round_):
                await self._build(height, round_)

    async def _handle_peer(self, peer: PeerInfo, message: Message) -> None:
        match message:
            case Status(height=height):
                self._peer_heights[peer.public_key] = height
                if self._executor.height + 1 < height:
                    await self._ask_blocks()
                elif not self._behind():
                    self._note_caught_up()
            case BlockProposal(proposal=proposal, block=block):
                await self._take_proposal(peer, message, proposal, block)
            case Votes(votes=votes):
                for vote in votes:
                    await self._take_vote(peer, vote)
                self._schedule_flush()
            case Transactions(transactions=transactions):
                self._take_transactions(peer, transactions)
            case BlocksRequest():
                await self._serve_blocks(peer, message)
            case Blocks():
                await self._take_blocks(peer, message)
            case _:
                raise RemoteError(f"{type(message).__name__} is not for the chain")

    # -- transactions ------------------------------------------------------------------------------------------------

    def _submit_local(self, data: bytes, reply: Reply[None]) -> None:
        try:
            self._mempool.add(data, self._executor.admit)
        except RemoteError as error:
            refused = error if isinstance(error, InvalidTransaction) else InvalidTransaction(str(error))
            reply.fail(refused)
            return
        self._network.broadcast(Transactions((data,)))
        reply.set(None)

    def _take_transactions(self, peer: PeerInfo, transactions: tuple[bytes, ...]) -> None:
        fresh: list[bytes] = []
        for data in transactions:
            try:
                if self._mempool.add(data, self._executor.admit):
                    fresh.append(data)
            except (InvalidTransaction, MempoolFull) as error:
                # Honest peers relay what was valid a moment ago: only what can never be valid is the peer's fault.
                _log.debug("transaction.refused", peer=peer.address.hex(), error=str(error))
        if fresh:
            self._network.broadcast(Transactions(tuple(fresh)), exclude=(peer.public_key,))

    # -- proposals and votes -----------------------------------------------------------------------------------------

    async def _take_proposal(self, peer: PeerInfo, message: BlockProposal, proposal_bytes: bytes, block: bytes) -> None:
        if proposal_bytes in self._proposals:
            return
        proposal = decode(proposal_bytes, Proposal, bytes_max=MESSAGE_BYTES_MAX)
        if proposal.height != self._executor.height + 1:
            return
        verify_proposal(self._chain_id, self._executor.validators, proposal)
        valid = self._is_valid(proposal, block)
        self._proposals[proposal_bytes] = block
        if valid:
            await self._store_pending(proposal.block_id)
        self._network.broadcast(message, exclude=(peer.public_key,))
        await self._feed(ProposalReceived(proposal, valid))

    def _is_valid(self, proposal: Proposal, encoded: bytes) -> bool:
        """Whether the block is what was proposed and executes; an invalid one gets nil, not silence."""
        block = decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX)
        if block.header.block_id() != proposal.block_id:
            # The relayer, not the proposer, may have swapped the block: it is blamed and the proposal not consumed.
            raise InvalidBlock(f"block {block.header.block_id().hex()[:16]} came with a proposal of another")
        try:
            self._executor.check(block)
        except RemoteError as error:
            _log.warning(
                "proposal.invalid",
                height=proposal.height,
                round=proposal.round,
                proposer=proposal.proposer.hex(),
                error=str(error),
            )
            return False
        return True

    async def _store_pending(self, block_id: bytes) -> None:
        encoded = self._executor.encoded(block_id)
        assert encoded is not None
        self._store.save_pending_block(self._executor.height + 1, block_id, encoded)

    async def _take_vote(self, peer: PeerInfo, encoded: bytes) -> None:
        if self._relay.is_known(encoded):
            self._relay.note(encoded, holder=peer.public_key, author=None)
            return
        vote = decode(encoded, Vote, bytes_max=MESSAGE_BYTES_MAX)
        if vote.height != self._executor.height + 1:
            return
        verify_vote(self._chain_id, self._executor.validators, vote)
        author = self._executor.validators.by_address[vote.validator].public_key
        self._relay.note(encoded, holder=peer.public_key, author=author)
        await self._feed(VoteReceived(vote))

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled and self._relay.pending:
            self._flush_scheduled = True
            self._later(RELAY_DELAY_S, _Flush())

    async def _flush(self) -> None:
        for peer, votes in self._relay.flush(self._full_peers()).items():
            await self._network.send(peer, Votes(votes))

    def _full_peers(self) -> list[bytes]:
        return [peer.public_key for peer in self._network.peers() if _follows_chain(peer)]

    def _later(self, seconds: float, message: ChainMessage) -> None:
        async def deliver() -> None:
            await trio.sleep(seconds)
            await self.mailbox.put(message)

        assert self._timers is not None
        self._timers.start_soon(deliver)

    # -- the core and its effects ------------------------------------------------------------------------------------

    async def _start_height(self) -> None:
        self._proposals.clear()
        self._relay.clear()
        self._stalled_ticks = 0
        height = self._executor.height + 1
        guarded = self._store.guard.safety()
        safety = guarded if guarded is not None and guarded.height == height else None
        if safety is not None:
            self._restore_pending(height)
        me = self._key.address if self._onion is not None else None
        transition = core.start_height(StartHeight(height, self._executor.validators, me, safety))
        self._core = transition.state
        await self._perform(transition.effects)

    def _restore_pending(self, height: int) -> None:
        """Blocks checked at this height before a restart: a lock is only worth something with its block."""
        for encoded in self._store.pending_blocks(height).values():
            try:
                self._executor.check(decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX))
            except RemoteError as error:
                raise LocalError(f"a stored block of height {height} no longer executes: {error}") from error

    async def _feed(self, event: Input) -> None:
        assert self._core is not None
        transition = core.apply(self._core, event)
        self._core = transition.state
        await self._perform(transition.effects)

    async def _perform(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case BuildValue(height=height, round=round_):
                    self._schedule_build(height, round_)
                case Propose():
                    await self._propose(effect)
                case CastVote():
                    await self._cast(effect)
                case ScheduleTimeout(step=step, height=height, round=round_):
                    wait_s = self._pacing.timeout_s(step, round_) + (self._pause_s() if step is Step.PROPOSE else 0.0)
                    self._later(wait_s, TimeoutElapsed(step, height, round_))
                case Decide():
                    await self._decide(effect)
                case Equivocation(vote_a=vote):
                    _log.error("consensus.equivocation", validator=vote.validator.hex(), height=vote.height)
                case ProposalEquivocation(proposal_a=proposal):
                    _log.error("consensus.equivocation", validator=proposal.proposer.hex(), height=proposal.height)

    def _pause_s(self) -> float:
        """Longest pause the proposer may still take before its block."""
        return max(0.0, self._committed_at + self._pacing.empty_block_interval_s - trio.current_time())

    def _schedule_build(self, height: int, round_: int) -> None:
        """Build after a pause: short when transactions wait, longer for an empty block."""
        pause = self._pacing.block_interval_s if len(self._mempool) else self._pacing.empty_block_interval_s
        elapsed = trio.current_time() - self._committed_at
        self._later(max(0.0, min(pause, self._pacing.block_interval_s) - elapsed), _BuildDue(height, round_))

    async def _build(self, height: int, round_: int) -> None:
        if self._onion is None or self._core is None or (height, round_) != (self._core.height, self._core.round):
            return
        wait_s = self._pause_s()
        if not len(self._mempool) and wait_s > 0 and round_ == 0:
            self._later(min(wait_s, 0.1), _BuildDue(height, round_))
            return
        block_id = self._signed_proposal(height, round_)
        if block_id is None or self._executor.encoded(block_id) is None:
            record = self._view.state.validator(self._key.address)
            if record is None:
                return
            block_id = self._executor.build(
                self._mempool.pending(),
                proposer=self._key.address,
                onion_preimage=self._onion.preimage(record.onion_tip),
                now_ms=self._now_ms(),
            )
        await self._store_pending(block_id)
        await self._feed(ValueBuilt(height, round_, block_id))

    def _signed_proposal(self, height: int, round_: int) -> bytes | None:
        """What this node has already proposed in this round, before a restart."""
        signed = self._store.guard.signed(height)
        return next((entry.block_id for entry in signed if (entry.round, entry.step) == (round_, Step.PROPOSE)), None)

    async def _propose(self, offer: Propose) -> None:
        assert self._core is not None
        block = self._executor.encoded(offer.block_id)
        if block is None:
            _log.error("consensus.block_missing", height=offer.height, block_id=offer.block_id.hex())
            return
        try:
            self._store.guard.allow_and_record(
                Step.PROPOSE, offer.height, offer.round, offer.block_id, self._core.safety()
            )
        except DoubleSignRefused as error:
            _log.error("consensus.double_sign_refused", error=str(error))
            return
        unsigned = Proposal(offer.height, offer.round, offer.valid_round, offer.block_id, self._key.address, bytes(64))
        signature = self._key.sign(PROPOSAL_TAG, unsigned.sign_bytes(self._chain_id))
        proposal = msgspec.structs.replace(unsigned, signature=signature)
        encoded = encode(proposal)
        self._proposals[encoded] = block
        light = [peer.public_key for peer in self._network.peers() if not _follows_chain(peer)]
        self._network.broadcast(BlockProposal(encoded, block), exclude=light)
        await self._feed(ProposalReceived(proposal, valid=True))

    async def _cast(self, ballot: CastVote) -> None:
        assert self._core is not None
        kind = VoteKind(ballot.kind)
        try:
            self._store.guard.allow_and_record(kind, ballot.height, ballot.round, ballot.block_id, self._core.safety())
        except DoubleSignRefused as error:
            _log.error("consensus.double_sign_refused", error=str(error))
            return
        payload = vote_sign_bytes(self._chain_id, kind, ballot.height, ballot.round, ballot.block_id)
        signature = self._key.sign(VOTE_TAG, payload)
        vote = Vote(kind, ballot.height, ballot.round, ballot.block_id, self._key.address, signature)
        self._relay.note(encode(vote), holder=None, author=None)
        await self._flush()
        await self._feed(VoteReceived(vote))

    async def _decide(self, decided: Decide) -> None:
        block = self._executor.commit(decided.block_id, decided.certificate)
        _log.info(
            "block.committed",
            height=decided.height,
            round=decided.round,
            transactions=len(block.transactions),
            state_root=block.header.state_root.hex(),
        )
        await self._after_commit(block)

    async def _after_commit(self, block: Block) -> None:
        self._committed_at = trio.current_time()
        self._mempool.settle(block.transactions, self._executor.admit)
        self._network.broadcast(Status(block.header.height))
        if not self._behind():
            self._note_caught_up()
        await self._start_height()

    # -- catching up -------------------------------------------------------------------------------------------------

    def _behind(self) -> bool:
        return any(height > self._executor.height for height in self._peer_heights.values())

    def _note_caught_up(self) -> None:
        if not self._view.caught_up:
            self._view.caught_up = True
            self._view.wake()
            _log.info("chain.caught_up", height=self._executor.height)

    async def _tick(self) -> None:
        """Ask for blocks when peers are ahead and we make no progress; repeat our votes when nobody does."""
        self._stalled_ticks += 1
        if self._syncing is not None and self._syncing[1] + STALL_TICKS * 4 < self._stalled_ticks:
            _log.info("sync.slow_peer", peer=self._syncing[0].hex()[:16])
            self._peer_heights.pop(self._syncing[0], None)
            self._syncing = None
        if self._stalled_ticks >= 2 and self._behind():
            await self._ask_blocks()
        elif self._stalled_ticks >= 2:
            self._note_caught_up()
        if self._stalled_ticks % STALL_TICKS == 0:
            for peer in self._network.peers():
                await self._share_height(peer)

    async def _share_height(self, peer: PeerInfo) -> None:
        """Send what we know of the height being decided: its newest proposals and all votes."""
        if not _follows_chain(peer):
            return
        for proposal, block in list(self._proposals.items())[-2:]:
            await self._network.send(peer.public_key, BlockProposal(proposal, block))
        votes = self._relay.all_votes()
        for start in range(0, len(votes), 256):
            await self._network.send(peer.public_key, Votes(votes[start : start + 256]))

    async def _ask_blocks(self) -> None:
        if self._syncing is not None:
            return
        ahead = {peer: height for peer, height in self._peer_heights.items() if height > self._executor.height}
        if not ahead:
            return
        peer = max(ahead, key=lambda key: (ahead[key], key))
        self._request += 1
        self._syncing = (peer, self._stalled_ticks)
        await self._network.send(peer, BlocksRequest(self._request, self._executor.height + 1, SYNC_BLOCKS_MAX))

    async def _take_blocks(self, peer: PeerInfo, reply: Blocks) -> None:
        if self._syncing is None or self._syncing[0] != peer.public_key or reply.request != self._request:
            return
        self._syncing = None
        if not reply.blocks:
            self._peer_heights.pop(peer.public_key, None)
            return
        for block_bytes, certificate in reply.blocks:
            if decode(block_bytes, Block, bytes_max=BLOCK_BYTES_MAX).header.height != self._executor.height + 1:
                continue  # decided here by votes while the reply was on its way
            block = self._executor.apply_synced(block_bytes, certificate)
            self._mempool.settle(block.transactions, self._executor.admit)
        self._committed_at = trio.current_time()
        _log.info("chain.synced", height=self._executor.height, peer=peer.address.hex())
        self._network.broadcast(Status(self._executor.height))
        await self._start_height()
        if self._behind():
            await self._ask_blocks()
        else:
            self._note_caught_up()

    async def _serve_blocks(self, peer: PeerInfo, request: BlocksRequest) -> None:
        blocks: list[tuple[bytes, bytes]] = []
        size = 0
        for height in range(request.from_height, request.from_height + request.count):
            stored = self._store.block(height) if height >= 1 else None
            if stored is None:
                break
            size += len(stored.block) + len(stored.certificate)
            if blocks and size > BODY_BYTES_MAX // 2:
                break
            blocks.append((stored.block, stored.certificate))
        await self._network.send(peer.public_key, Blocks(request.request, tuple(blocks)))


def _follows_chain(peer: PeerInfo) -> bool:
    """Whether a peer takes part in consensus gossip; a light client only asks."""
    return any(role != "inference" for role in peer.roles)
