"""Weights as shards: how they are cut, described, encoded, placed and scheduled for download. Pure."""
