"""How a rule is broken: one name of a room gets another meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def patch(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace `owner.name` by what `make` gives for it. It must be there: a mutation of nothing breaks nothing."""
    original = getattr(owner, name)
    setattr(owner, name, make(original))
