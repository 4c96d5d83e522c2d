"""The deterministic simulator: whole networks of real services in one process, driven by one seed.

    python -m deepshard.testing.simulate --seed 7 --nodes 7 --scenario mixed
    python -m deepshard.testing.simulate --set full --jobs 2
    python -m deepshard.testing.simulate --seeds 0:200 --canary forgotten-lock

What runs is what nodes run: `ChainService` with its executor, mesh, mempool and sync, `LightServer`, `SnapshotServer`,
`Wallet`, the stores, the guard and the pure cores. What is simulated is below them: the network (`network`), disks
(`testing.fault_disk`), clocks and chance (`seal`); Trio's mock clock jumps from one event to the next. Signatures are
real; each is verified once for all nodes.

A seed draws a plan (`plan`): stakes, timing, work, and faults with their times. Byzantine nodes run the same services,
and what leaves them is rewritten (`byzantine`), or are twins: two instances of one key. An oracle (`oracle`) judges
from outside:

- no two blocks are decided at one height, state roots are those of the headers, supply is conserved;
- no honest node signs two things for one place, or prevotes against its lock without a proof-of-lock;
- nothing decided is lost over a crash; no undamaged disk is refused; no service ends by itself;
- evidence accuses no honest node, and where more than a third is Byzantine and a fork happens, it convicts a third;
- nobody honest is convicted on chain, nobody twice in an epoch, and what honest validators hold of evidence when the
  faults are over comes on chain;
- after the last fault every honest node decides within `world.LIVENESS_ROUNDS` rounds.

The same plan gives the same log, to the byte, in every process and under every hash seed (`--verify-determinism`). A
failing seed prints the command that replays it and the faults it needs. A whole set (`--set`) also has to exercise all
of `runset.SOMETIMES`. Decision 012 says why it is built like this.
"""

from deepshard.testing.simulate.plan import Fault, Plan, draw
from deepshard.testing.simulate.running import Result, run_plan, simulate

__all__ = ["Fault", "Plan", "Result", "draw", "run_plan", "simulate"]
