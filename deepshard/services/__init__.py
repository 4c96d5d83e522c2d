"""The actors of a node: each reads a mailbox or the committed state, asks a pure room what follows, and does it."""
