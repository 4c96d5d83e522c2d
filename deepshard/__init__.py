"""Deepshard: a peer-to-peer network that owns a language model together."""

__version__ = "0.1.0"
