"""Checks of `convictions.json`: those of `transactions.json`."""

from deepshard.conformance.vectors.checks.transactions import check

__all__ = ["check"]
