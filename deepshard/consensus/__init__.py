"""Consensus: a stake-weighted Tendermint core, its messages' verification, block structure and the light client.

Pure: `core.apply` takes inputs and returns effects; hosts keep time, keys, disk and network.
"""
