"""Gossip: the mesh that units travel through, messages seen, how peers behaved, how fast they may send. Pure.

Time and randomness are arguments. `Mesh` is the machine; `scripts` holds timed scripts of chapter 7.
"""

from deepshard.gossip.mesh import Mesh
from deepshard.gossip.rates import Rate, RateLimiter
from deepshard.gossip.scores import PeerScores
from deepshard.gossip.seen import SeenCache
from deepshard.gossip.units import Topic, Unit, Verdict

__all__ = ["Mesh", "PeerScores", "Rate", "RateLimiter", "SeenCache", "Topic", "Unit", "Verdict"]
