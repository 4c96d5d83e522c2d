"""The load: a client in a process of its own that signs transfers, sends them to the validators and waits for blocks.

`python -m bench.consensus.load CONFIG` reads a `Load` as JSON from the file and prints a `Result` as JSON. It speaks
the wire protocol as any client may: a peer without a role, linked to every validator. A transfer is sent to one of
them. It counts as committed when a validator's Status tells of the block that holds it.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import Final

import msgspec
import structlog
import trio

from deepshard.consensus.types import Block
from deepshard.encoding import decode
from deepshard.identity import SecretKey
from deepshard.ledger.genesis import load_genesis
from deepshard.ledger.transactions import Transfer, sign_transaction, transaction_id
from deepshard.limits import BLOCK_BYTES_MAX
from deepshard.net.network import Network
from deepshard.net.types import PeerUp, Received
from deepshard.wire.messages import Blocks, BlocksRequest, Status, Transactions

from .network import CHAIN_ID, key_of

TURN_S: Final = 0.02
SETTLE_S_MAX: Final = 20.0


class Load(msgspec.Struct, frozen=True):
    """What is sent: `rate` transactions a second, and never more than `waiting_max` that wait for a block."""

    genesis: str
    validators: tuple[str, ...]
    accounts: int
    rate: float
    seconds: float
    waiting_max: int
    waiting_per_account_max: int = 48


class Result(msgspec.Struct, frozen=True):
    """What came of it: submission and, if any, commitment of every transaction, in seconds since the load began."""

    submitted: tuple[float, ...]
    committed: tuple[float, ...]
    """Negative where a transaction wasn't seen in a block."""
    processor_s: float


class Account:
    """A sender: its key, its next nonce, and how many of its transfers wait."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.key: SecretKey = key_of("account", number)
        self.nonce = 0
        self.waiting = 0


class Client:
    """The load as it runs."""

    def __init__(self, load: Load, network: Network) -> None:
        self._load = load
        self._network = network
        self._accounts = [Account(number) for number in range(load.accounts)]
        self._validators: list[bytes] = []
        self._sent: dict[bytes, tuple[float, Account]] = {}
        self._told: dict[int, float] = {}
        self._next_height = 0
        self._asked = False
        self._request = 0
        self.submitted: dict[bytes, float] = {}
        self.committed: dict[bytes, float] = {}
        self.began = 0.0

    @property
    def waiting(self) -> int:
        return len(self._sent)

    async def listen(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Take what the validators say; started when all are linked."""
        async for event in self._network.events:
            match event:
                case PeerUp(peer=peer):
                    self._validators.append(peer.public_key)
                    if len(self._validators) == len(self._load.validators):
                        task_status.started()
                case Received(message=Status(height=height)):
                    now = time.monotonic()
                    for reached in range(max(self._told, default=height - 1) + 1, height + 1):
                        self._told[reached] = now
                    self._next_height = self._next_height or height + 1
                    await self._ask()
                case Received(message=Blocks(blocks=blocks)):
                    self._asked = False
                    for encoded, _ in blocks:
                        self._take(decode(encoded, Block, bytes_max=BLOCK_BYTES_MAX))
                    await self._ask()
                case _:
                    pass

    async def _ask(self) -> None:
        """Read the next blocks from one of the validators, each in turn."""
        if self._asked or self._next_height > max(self._told):
            return
        self._asked = True
        self._request += 1
        peer = self._validators[self._request % len(self._validators)]
        await self._network.send(peer, BlocksRequest(self._request, self._next_height, 8))

    def _take(self, block: Block) -> None:
        if block.header.height != self._next_height:
            return
        self._next_height += 1
        at = self._told.get(block.header.height, time.monotonic())
        for data in block.transactions:
            identifier = transaction_id(data)
            _, account = self._sent.pop(identifier, (0.0, None))
            if account is not None:
                account.waiting -= 1
                self.committed[identifier] = at

    async def send(self) -> None:
        """Send for as long as the load says, then wait for what is under way."""
        self.began = time.monotonic()
        turns = deque(self._accounts)
        count = 0
        while (passed := time.monotonic() - self.began) < self._load.seconds:
            batches: dict[bytes, list[bytes]] = {}
            for _ in range(len(turns)):
                if count >= passed * self._load.rate or self.waiting >= self._load.waiting_max:
                    break
                account = turns[0]
                turns.rotate(-1)
                if account.waiting < self._load.waiting_per_account_max:
                    peer = self._validators[account.number % len(self._validators)]
                    batches.setdefault(peer, []).append(self._transfer(account))
                    count += 1
            for peer, batch in batches.items():
                await self._network.send(peer, Transactions(tuple(batch)))
            await trio.sleep(TURN_S)
        with trio.move_on_after(SETTLE_S_MAX):
            while self.waiting:  # noqa: ASYNC110  # looking now and then is enough here
                await trio.sleep(TURN_S)

    def _transfer(self, account: Account) -> bytes:
        to = self._accounts[(account.number * 7 + account.nonce + 1) % len(self._accounts)]
        data = sign_transaction(account.key, CHAIN_ID, account.nonce, Transfer(to.key.address, 1))
        account.nonce += 1
        account.waiting += 1
        identifier = transaction_id(data)
        now = time.monotonic()
        self._sent[identifier] = (now, account)
        self.submitted[identifier] = now
        return data


async def run(load: Load) -> Result:
    """Link to all validators, send, and say what came of it."""
    genesis = load_genesis(Path(load.genesis).read_text())  # noqa: ASYNC240  # before anything else runs
    network = Network(
        key=key_of("client", 0),
        chain_id=CHAIN_ID,
        genesis_hash=genesis.hash(),
        roles=(),
        listen=None,
        dial=load.validators,
    )
    client = Client(load, network)
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(client.listen)
        await client.send()
        nursery.cancel_scope.cancel()
    return Result(
        submitted=tuple(at - client.began for at in client.submitted.values()),
        committed=tuple(client.committed.get(each, -1e9) - client.began for each in client.submitted),
        processor_s=time.process_time(),
    )


if __name__ == "__main__":
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    found = trio.run(run, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Load))
    sys.stdout.buffer.write(msgspec.json.encode(found))
