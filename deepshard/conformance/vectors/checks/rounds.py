"""Checks of `rounds.json`: those of `transactions.json`."""

from __future__ import annotations

from deepshard.conformance.vectors.checks.transactions import check

__all__ = ["check"]
