"""The chain actor: hosts the consensus core. One mailbox in, one state machine, effects out.

Every signature passes the guard on disk before it leaves; every block is stored before it is announced; a peer's error
costs the peer and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
import trio

from deepshard.actors import Mailbox, Reply
from deepshard.ballots import Vote
from deepshard.consensus import core
from deepshard.consensus.events import (
    BuildValue,
    CastVote,
    Decide,
    Effect,
    Equivocation,
    Input,
    LockForgotten,
    ProposalEquivocation,
    ProposalReceived,
    Propose,
    ScheduleTimeout,
    StartHeight,
    TimeoutElapsed,
    ValueBuilt,
    VoteReceived,
)
from deepshard.consensus.types import Block, Step
from deepshard.disk.chain import ChainStore
from deepshard.encoding import decode, encode
from deepshard.errors import InvalidTransaction, LocalError, RemoteError
from deepshard.gossip import Verdict
from deepshard.identity import SecretKey
from deepshard.ledger.onion import OnionChain
from deepshard.ledger.params import Genesis
from deepshard.limits import BLOCK_BYTES_MAX, GOSSIP_HEARTBEAT_S
from deepshard.net.types import NetworkPort, PeerDown, PeerInfo, PeerUp, Received
from deepshard.services.accountability import EvidenceLocker
from deepshard.services.block_sync import follows_chain
from deepshard.services.catching_up import CatchUp, SnapshotPolicy
from deepshard.services.chain_messages import BuildDue, ChainMessage, Flush, GoOn, Heartbeat, SubmitTransaction, Tick
from deepshard.services.executor import ChainExecutor
from deepshard.services.input_recording import InputRecorder
from deepshard.services.judging import Judge
from deepshard.services.mesh_host import GossipMessage, MeshHost
from deepshard.services.pacing import Pacing
from deepshard.services.signing import Signer
from deepshard.services.transaction_gossip import TransactionGossip
from deepshard.services.view import ChainView
from deepshard.wire.messages import (
    BlockProposal,
    Blocks,
    BlocksRequest,
    Graft,
    Headers,
    IDontWant,
    IHave,
    IWant,
    Message,
    ProofOfLock,
    Prune,
    SnapshotChunk,
    Snapshots,
    Status,
    Transactions,
    Votes,
)

_log = structlog.get_logger(__name__)
TICK_S, STALL_TICKS = 0.5, 4


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
        snapshots: SnapshotPolicy | None = None,
        evidence: EvidenceLocker | None = None,
    ) -> None:
        self._genesis = genesis
        self._store = store
        self._view = view
        self._network = network
        self._key = key
        self._onion = onion
        self._pacing = pacing.at_least(genesis.params.block_interval_ms)
        self._now_ms = now_ms
        self.mailbox: Mailbox[ChainMessage] = Mailbox()
        policy = snapshots or SnapshotPolicy()
        self._executor = ChainExecutor(genesis, store, view, named=policy.named)
        self._transactions = TransactionGossip(network, self._executor.admit)
        self._judge = Judge(genesis.chain_id, self._executor, store, self._transactions, now_ms)
        self._mesh = MeshHost(network, secret=key.seed, later=self._flush_later)
        self._signer = Signer(key, genesis.chain_id, store.guard, store.log)
        self._evidence = evidence or EvidenceLocker(view)
        self._recorder = InputRecorder(store, self._executor, self._judge)
        self._catch_up = CatchUp(
            genesis,
            network,
            store,
            self._executor,
            view,
            policy=policy,
            now_ms=now_ms,
            settle=self._transactions.settle,
            moved=self._after_sync,
            go_on_later=lambda: self._later(0.0, GoOn()),
        )
        self._stalled_ticks, self._committed_at = 0, 0.0
        self._timers: trio.Nursery | None = None
        self._core: core.State | None = None

    # -- as seen by other services

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
            nursery.start_soon(self._repeat, TICK_S, Tick())
            nursery.start_soon(self._repeat, GOSSIP_HEARTBEAT_S, Heartbeat())
            self._committed_at = trio.current_time()
            await self._start_height()
            self._view.caught_up = not self._network.peers()
            while True:
                await self._handle(await self.mailbox.get())

    async def _repeat(self, interval_s: float, message: ChainMessage) -> None:
        while True:
            await trio.sleep(interval_s)
            await self.mailbox.put(message)

    async def _handle(self, message: ChainMessage) -> None:
        match message:
            case Received(peer=peer, message=body):
                try:
                    await self._handle_peer(peer, body)
                except RemoteError as error:
                    self._network.penalise(peer.public_key, error)
            case PeerUp(peer=peer):
                self._mesh.peer_up(peer)
                await self._network.send(peer.public_key, Status(self._executor.height))
                await self._share_height(peer)
                await self._transactions.introduce(peer)
            case PeerDown(peer=peer):
                self._mesh.peer_down(peer)
                self._catch_up.forget(peer.public_key)
            case SubmitTransaction(data=data, reply=reply):
                try:
                    self._mesh.publish(self._transactions.submit(data))
                except InvalidTransaction as error:
                    reply.fail(error)
                else:
                    reply.set(None)
            case TimeoutElapsed():
                await self._feed(message)
            case Tick():
                await self._tick()
            case Heartbeat():
                self._mesh.heartbeat()
            case Flush():
                self._mesh.relay()
            case GoOn():
                await self._catch_up.go_on()
            case BuildDue(height=height, round=round_):
                await self._build(height, round_)

    async def _handle_peer(self, peer: PeerInfo, message: Message) -> None:
        match message:
            case BlockProposal() | ProofOfLock() | Votes() | Transactions():
                await self._take_units(peer, message)
            case Graft() | Prune() | IHave() | IWant() | IDontWant():
                self._mesh.control(peer, message)
            case Status() | BlocksRequest() | Blocks() | Headers() | Snapshots() | SnapshotChunk():
                await self._catch_up.take(peer, message)
            case _:
                raise RemoteError(f"{type(message).__name__} is not for the chain")

    # -- gossip ------------------------------------------------------------------------------------------------------

    async def _take_units(self, peer: PeerInfo, message: GossipMessage) -> None:
        """Judge what is new in a message; one bad unit doesn't spoil the others."""
        for unit in self._mesh.receive(peer, message):
            assert self._core is not None
            try:
                judged = self._judge.judge(unit, self._core)
            except RemoteError as error:
                self._mesh.judge(unit, Verdict.REJECT)
                self._network.penalise(peer.public_key, error)
                continue
            self._mesh.judge(unit, judged.verdict, judged.author)
            if judged.event is not None:
                await self._feed(judged.event)

    def _flush_later(self, seconds: float) -> None:
        self._later(seconds, Flush())

    def _later(self, seconds: float, message: ChainMessage) -> None:
        async def deliver() -> None:
            await trio.sleep(seconds)
            await self.mailbox.put(message)

        assert self._timers is not None
        self._timers.start_soon(deliver)

    # -- the core and its effects ------------------------------------------------------------------------------------

    async def _start_height(self) -> None:
        self._judge.start_height()
        self._mesh.progress(decided=True)
        self._stalled_ticks = 0
        height = self._executor.height + 1
        guarded = self._store.guard.safety()
        safety = guarded if guarded is not None and guarded.height == height else None
        self._restore_pending(height)
        recalled = list(self._recorder.recall(height))
        me = self._key.address if self._onion is not None else None
        transition = core.start_height(StartHeight(height, self._executor.validators, me, safety))
        self._core = transition.state
        await self._perform(transition.effects)
        if safety is not None and me is not None:
            # What was signed before a restart may never have left: it is sent again, and counted again.
            for vote in self._signer.repeat_votes(height):
                if self._core.height == height:
                    await self._send_vote(vote)
        for event in recalled:
            if self._core.height == height:
                await self._feed(event)

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
        if transition.state is not self._core:
            self._recorder.took(event)
        if transition.state.round != self._core.round:
            self._mesh.progress(decided=False)
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
                case Equivocation() | ProposalEquivocation() | LockForgotten():
                    self._evidence.note(effect, self._executor.validators)

    def _pause_s(self) -> float:
        """Longest pause the proposer may still take before its block."""
        return max(0.0, self._committed_at + self._pacing.empty_block_interval_s - trio.current_time())

    def _schedule_build(self, height: int, round_: int) -> None:
        """Build after a pause: short when transactions wait, longer for an empty block."""
        pause = self._pacing.block_interval_s if len(self._transactions) else self._pacing.empty_block_interval_s
        elapsed = trio.current_time() - self._committed_at
        self._later(max(0.0, min(pause, self._pacing.block_interval_s) - elapsed), BuildDue(height, round_))

    async def _build(self, height: int, round_: int) -> None:
        if self._onion is None or self._core is None or (height, round_) != (self._core.height, self._core.round):
            return
        wait_s = self._pause_s()
        if not len(self._transactions) and wait_s > 0 and round_ == 0:
            self._later(min(wait_s, 0.1), BuildDue(height, round_))
            return
        block_id = self._signer.proposed(height, round_)
        if block_id is None or self._executor.encoded(block_id) is None:
            record = self._view.state.validator(self._key.address)
            if record is None:
                return
            block_id = self._executor.build(
                self._transactions.pending(),
                proposer=self._key.address,
                onion_preimage=self._onion.preimage(record.onion_tip),
                now_ms=self._now_ms(),
            )
        self._judge.store_pending(block_id)
        await self._feed(ValueBuilt(height, round_, block_id))

    async def _propose(self, offer: Propose) -> None:
        assert self._core is not None
        block = self._executor.encoded(offer.block_id)
        if block is None:
            _log.error("consensus.block_missing", height=offer.height, block_id=offer.block_id.hex())
            return
        proposal = self._signer.propose(offer, self._core.safety())
        if proposal is None:
            return
        for proof in core.lock_proofs(self._core, offer.valid_round, offer.block_id):
            self._judge.note_own_lock_proof(proof)
            self._mesh.publish(ProofOfLock(encode(proof)))
        encoded = encode(proposal)
        self._judge.note_own_proposal(proposal, encoded, block)
        self._mesh.publish(BlockProposal(encoded, block))
        await self._feed(ProposalReceived(proposal, valid=True))

    async def _cast(self, ballot: CastVote) -> None:
        assert self._core is not None
        vote = self._signer.vote(ballot, self._core.safety())
        if vote is not None:
            await self._send_vote(vote)

    async def _send_vote(self, vote: Vote) -> None:
        encoded = encode(vote)
        self._judge.note_own_vote(vote, encoded)
        self._mesh.publish(Votes((encoded,)))
        await self._feed(VoteReceived(vote))

    async def _decide(self, decided: Decide) -> None:
        if self._executor.encoded(decided.block_id) is None:
            # It was locked before a restart, and lost with the disk: whoever has it decides it, and it is fetched.
            _log.error("consensus.block_missing", height=decided.height, block_id=decided.block_id.hex())
            return
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
        self._transactions.settle(block.transactions)
        self._network.broadcast(Status(block.header.height))
        self._catch_up.note_caught_up()  # what is decided by votes is the present, whatever some peer claims
        await self._start_height()

    # -- catching up -------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Ask for blocks when peers are ahead and we make no progress; repeat our votes when nobody does."""
        self._stalled_ticks += 1
        await self._catch_up.tick(self._stalled_ticks)
        waited = self._stalled_ticks - int(self._pacing.empty_block_interval_s / TICK_S)  # without the pause
        if waited > 0 and waited % STALL_TICKS == 0:
            # Who missed that we committed, and hears nothing of a later block, would stay one block behind for ever.
            self._network.broadcast(Status(self._executor.height))
            for peer in self._network.peers():
                await self._share_height(peer)

    async def _share_height(self, peer: PeerInfo) -> None:
        """Send what we know of the height being decided: its newest proposals and all votes."""
        if not follows_chain(peer) or self._core is None:
            return
        for message in self._judge.recall(self._core):
            await self._network.send(peer.public_key, message)

    async def _after_sync(self) -> None:
        self._committed_at = trio.current_time()
        self._network.broadcast(Status(self._executor.height))
        await self._start_height()
