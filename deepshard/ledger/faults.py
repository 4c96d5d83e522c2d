"""Why a transaction is refused; each error carries the facts of its rule."""

from __future__ import annotations

from deepshard.errors import InvalidTransaction
from deepshard.primitives import format_address, format_amount


class WrongChain(InvalidTransaction):
    """Signed for another network."""

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"transaction is for chain {got!r}, this is {expected!r}")
        self.expected, self.got = expected, got


class NonceMismatch(InvalidTransaction):
    """Not the sender's next transaction."""

    def __init__(self, sender: bytes, expected: int, got: int) -> None:
        super().__init__(f"nonce of {format_address(sender)} is {expected}, the transaction has {got}")
        self.sender, self.expected, self.got = sender, expected, got


class InsufficientBalance(InvalidTransaction):
    """The sender can't pay the fee and what the action moves."""

    def __init__(self, sender: bytes, needed: int, balance: int) -> None:
        super().__init__(
            f"{format_address(sender)} has {format_amount(balance)}, the transaction needs {format_amount(needed)}"
        )
        self.sender, self.needed, self.balance = sender, needed, balance


class StakeTooLow(InvalidTransaction):
    """Less stake than the parameters ask for, or an amount of zero."""

    def __init__(self, what: str, offered: int, minimum: int) -> None:
        super().__init__(f"{what} of {format_amount(offered)} is below the minimum of {format_amount(minimum)}")
        self.what, self.offered, self.minimum = what, offered, minimum


class UnknownProposal(InvalidTransaction):
    """No proposal has this id."""

    def __init__(self, proposal: bytes) -> None:
        super().__init__(f"no proposal {proposal.hex()}")
        self.proposal = proposal


class UnknownRound(InvalidTransaction):
    """No training round has this number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"no training round {number}")
        self.number = number


class WrongPhase(InvalidTransaction):
    """The proposal or round isn't in the phase that the action belongs to."""

    def __init__(self, subject: str, expected: str, got: str) -> None:
        super().__init__(f"{subject} is {got}, the transaction needs it {expected}")
        self.subject, self.expected, self.got = subject, expected, got


class NotInCommittee(InvalidTransaction):
    """The sender has no seat in the proposal's committee."""

    def __init__(self, voter: bytes, proposal: bytes) -> None:
        super().__init__(f"{format_address(voter)} is not in the committee of proposal {proposal.hex()}")
        self.voter, self.proposal = voter, proposal


class NotATrainer(InvalidTransaction):
    """The sender hasn't joined the round."""

    def __init__(self, address: bytes, number: int) -> None:
        super().__init__(f"{format_address(address)} is no trainer of round {number}")
        self.address, self.number = address, number


class NotAValidator(InvalidTransaction):
    """The sender isn't in the active validator set, or has no such bond."""

    def __init__(self, address: bytes) -> None:
        super().__init__(f"{format_address(address)} is not a validator")
        self.address = address


class AlreadyDone(InvalidTransaction):
    """The sender has done this once; it can't be done again."""

    def __init__(self, what: str, address: bytes) -> None:
        super().__init__(f"{format_address(address)} has already {what}")
        self.what, self.address = what, address


class NothingCommitted(InvalidTransaction):
    """The sender reveals what it never committed to."""

    def __init__(self, address: bytes) -> None:
        super().__init__(f"{format_address(address)} reveals without a commitment")
        self.address = address


class CommitmentMismatch(InvalidTransaction):
    """What is revealed isn't what was committed."""

    def __init__(self, address: bytes, expected: bytes, got: bytes) -> None:
        super().__init__(f"{format_address(address)} committed to {expected.hex()}, the reveal gives {got.hex()}")
        self.address, self.expected, self.got = address, expected, got


class DuplicateSegment(InvalidTransaction):
    """A segment stands twice in the proposal, or in an accepted or open one."""

    def __init__(self, digest: bytes, where: str) -> None:
        super().__init__(f"segment {digest.hex()} is already {where}")
        self.digest, self.where = digest, where


class BadSegmentSize(InvalidTransaction):
    """A segment is empty or larger than a segment may be."""

    def __init__(self, digest: bytes, size: int, limit: int) -> None:
        super().__init__(f"segment {digest.hex()} is {size} bytes, must be 1 to {limit}")
        self.digest, self.size, self.limit = digest, size, limit


class WrongShape(InvalidTransaction):
    """A list in the transaction hasn't the length or the order that the state asks for."""

    def __init__(self, what: str, expected: str, got: str) -> None:
        super().__init__(f"{what}: expected {expected}, got {got}")
        self.what, self.expected, self.got = what, expected, got


class OnionTipChanged(InvalidTransaction):
    """A bonded validator offers another hash onion; that would let it choose its share of the beacon."""

    def __init__(self, address: bytes) -> None:
        super().__init__(f"validator {format_address(address)} can't change its hash onion while it is bonded")
        self.address = address


class LimitReached(InvalidTransaction):
    """A bound of the ledger is reached; try again later."""

    def __init__(self, what: str, limit: int) -> None:
        super().__init__(f"no more than {limit} {what}")
        self.what, self.limit = what, limit


class EvidenceOutOfTime(InvalidTransaction):
    """Evidence of an offence that is too old to be punished, or of a height that is to come."""

    def __init__(self, offence_height: int, first: int, last: int) -> None:
        super().__init__(f"evidence is of height {offence_height}, taken now are heights {first} to {last}")
        self.offence_height, self.first, self.last = offence_height, first, last


class AlreadyConvicted(InvalidTransaction):
    """A conviction covers this offence: one report of it was enough."""

    def __init__(self, address: bytes, covered_height: int, offence_height: int) -> None:
        super().__init__(
            f"validator {format_address(address)} is convicted for all up to height {covered_height}, "
            f"the evidence is of height {offence_height}"
        )
        self.address, self.covered_height, self.offence_height = address, covered_height, offence_height


class NotJailed(InvalidTransaction):
    """The sender isn't kept out of the validator set."""

    def __init__(self, address: bytes) -> None:
        super().__init__(f"{format_address(address)} is not jailed")
        self.address = address


class StillJailed(InvalidTransaction):
    """The sender's time in jail isn't over."""

    def __init__(self, address: bytes, until: int, height: int) -> None:
        super().__init__(f"validator {format_address(address)} is jailed until height {until}, this is {height}")
        self.address, self.until, self.height = address, until, height


class PriceAboveLimit(InvalidTransaction):
    """The licence costs more than the buyer is ready to pay."""

    def __init__(self, price: int, limit: int) -> None:
        super().__init__(f"the licence costs {format_amount(price)}, the buyer's limit is {format_amount(limit)}")
        self.price, self.limit = price, limit


class WrongVersion(InvalidTransaction):
    """The licence is for weights that aren't the current ones."""

    def __init__(self, current: int, got: int) -> None:
        super().__init__(f"the current weights are version {current}, the transaction names {got}")
        self.current, self.got = current, got


class UnknownAudit(InvalidTransaction):
    """No audit was drawn in this epoch, or it was so long ago that it is forgotten."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"no audit of epoch {epoch}")
        self.epoch = epoch


class NotDrawn(InvalidTransaction):
    """The audit doesn't ask for this shard."""

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__(f"the audit of epoch {epoch} doesn't ask for shard {shard}")
        self.shard, self.epoch = shard, epoch


class NotDue(InvalidTransaction):
    """The audit asks for the shard, but not this holder."""

    def __init__(self, address: bytes, shard: int, epoch: int) -> None:
        super().__init__(f"the audit of epoch {epoch} doesn't ask {format_address(address)} for shard {shard}")
        self.address, self.shard, self.epoch = address, shard, epoch


class WrongAnswer(InvalidTransaction):
    """A leaf, path, block or proof that isn't what the audit asks for."""

    def __init__(self, shard: int, fault: str) -> None:
        super().__init__(f"the answer for shard {shard} doesn't prove it: {fault}")
        self.shard, self.fault = shard, fault
