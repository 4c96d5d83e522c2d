"""Passes on votes without looking at their signatures."""

from __future__ import annotations

from typing import Any

from patching import patch

from deepshard.consensus.certificates import NotAValidator
from deepshard.services import judging

BREAKS = ("9.2/3",)
ONLY = ("9.2",)
BLOCKS = 2


def break_rule() -> None:
    """The name of a validator is enough."""

    def believe(chain_id: str, validators: Any, vote: Any) -> None:
        del chain_id
        if vote.validator not in validators.by_address:
            raise NotAValidator(vote.validator, vote.height)

    patch(judging, "verify_vote", lambda _: believe)
