"""Memory of an update, with its gradient summed over parts of its episodes (--clips-at-once).

    pytest tests/benchmarks/test_update_memory.py --benchmark-only

7 x 7 x 1024 cubes, T = 30, LSTM 3 x 512, m = 5, 16 clips with R = 16 rollouts each, one thread. Each setting runs in
its own process. The growth of its peak resident memory during one update is measured. The whole rollout is in memory in
each case.
"""

import subprocess
import sys

RUN = """
import resource, sys, time
import torch
from glimpse_agents import reinforce
from glimpse_agents.learning.presets import PRESETS
from profiler.iteration import make_trainer, random_features

torch.set_num_threads(1)
at_once = int(sys.argv[1]) or None
settings = {"clips": 16, "rollouts": 16, "frames": None, "clips_at_once": at_once}
trainer = make_trainer(PRESETS["paper"].with_settings(settings), random_features(7, 1024, 30, 16))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
scalars = reinforce.update(trainer, *reinforce.collect(trainer))
taken = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print((peak - before) / 1024, taken, scalars["train/gradient_norm"])
"""


def test_memory_of_an_update(benchmark, report):
    norms = []

    def measure():
        for at_once in (0, 8, 4, 2, 1):
            done = subprocess.run([sys.executable, "-c", RUN, str(at_once)], capture_output=True, text=True, check=True)
            megabytes, seconds, norm = map(float, done.stdout.split())
            norms.append(norm)
            report(f"{at_once or 'all 16':>6} clips at once: {megabytes:6.0f} MB, {seconds:5.1f} s")

    benchmark.pedantic(measure, rounds=1)
    assert max(norms) - min(norms) < 1e-3 * max(norms)  # the same gradient, to rounding
