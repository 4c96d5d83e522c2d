"""Supervised Trio actors with bounded mailboxes."""

from deepshard.actors.mailbox import Mailbox, Reply
from deepshard.actors.supervisor import Supervisor

__all__ = ["Mailbox", "Reply", "Supervisor"]
