"""The durability sweep: a validator loses power at every operation of its disk, and every byte of its files rots.

    python -m deepshard.testing.durability            # everything, some 790,000 points
    python -m deepshard.testing.durability --quick    # a sample of them, in seconds
    python -m deepshard.testing.durability --only power --stage rough --point 117 --variant torn --seed 0

Part `power` (`power`) runs a network of the simulator's for each point and variant: one validator loses power there,
starts again and goes on. Part `rot` (`homes`, `answers`, `rot`, `plain_files`) damages the files that such a validator
left at some moments, opens them as a node does, asks and uses them, and judges what came of it (`outcomes`).

What fails prints the command that does that one point again. Decision 011 says what may become of damage.
"""
