"""What gossip remembers: messages seen, how peers behaved, and how fast they may send. Pure; time is an argument."""

from deepshard.gossip.rates import Rate, RateLimiter
from deepshard.gossip.scores import PeerScores
from deepshard.gossip.seen import SeenCache

__all__ = ["PeerScores", "Rate", "RateLimiter", "SeenCache"]
