"""What an update needs in memory, and what gradients that are summed over parts of it save.

    pytest tests/benchmarks/test_update_memory.py --benchmark-only

7 x 7 x 1024 cubes, T = 30, LSTM 3 x 512, m = 5, 16 clips with R = 16 rollouts each, one thread. Each way runs in a
process of its own: its peak of resident memory after one update, less what it had before. The rollout is kept whole
either way.
"""

import subprocess
import sys

RUN = """
import dataclasses, resource, sys, tempfile, time
from pathlib import Path
import torch
from glimpse_agents.learning.config import PRESETS
from profiler.iteration import make_arm, random_features

torch.set_num_threads(1)
at_once = int(sys.argv[1]) or None
config = dataclasses.replace(PRESETS["paper"], clips=16, rollouts=16, frames=None, clips_at_once=at_once)
source = random_features(7, 1024, 30, 16)
with tempfile.TemporaryDirectory() as folder:
    arm = make_arm(config, source, Path(folder))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    scalars = arm._train_once()
    taken = time.perf_counter() - begun
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
