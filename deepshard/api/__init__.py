"""The node's HTTP API: Starlette on Hypercorn's Trio worker, and the `Backend` it asks."""
