"""A private network of real processes on one machine that lives through one epoch and proves it.

It starts nodes as a person would, speaks to them through their HTTP API only, and knows no rule of the protocol: what
it reports is what the nodes answered.
"""
