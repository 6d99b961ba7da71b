"""How much faster two processes of one thread train than one: updates a second at the sizes of real features.

pytest tests/benchmarks/test_distributed_speed.py --benchmark-only
"""

import os
import statistics
import subprocess
import sys

FLOOR = 1.6
ROUNDS = 3
TRAIN = """
import dataclasses, sys, time
from pathlib import Path
from tempfile import TemporaryDirectory
from glimpse_agents.learning.config import PRESETS
from glimpse_agents.parallel.ranks import joined
from profiler.iteration import make_arm, random_features

config = dataclasses.replace(PRESETS["features"], glimpses=5, rollouts=4, jitter=False)
with joined() as share, TemporaryDirectory() as folder:
    arm = make_arm(config, random_features(7, 1024, 30, config.clips), Path(folder))
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        arm._train_once()
        arm.update += 1
        times.append(time.perf_counter() - begun)
    if share.is_first:
        print("updates a second", 1 / min(times[1:]))
"""


def test_two_processes_against_one(benchmark, report, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    rates = {1: [], 2: []}

    def run(processes):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        path = os.pathsep.join(filter(None, sys.path))
        finished = subprocess.run(
            [sys.executable, *launcher, str(script)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}, capture_output=True, text=True, check=True,
        )  # fmt: skip
        rates[processes].append(float(finished.stdout.split("updates a second")[1]))

    benchmark.pedantic(lambda: [run(processes) for processes in (1, 2)], rounds=ROUNDS)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    one, two = (max(rates[processes]) for processes in (1, 2))
    report(
        f"updates a second in the best round: one process {one:.3f}, two {two:.3f}, ratio {two / one:.2f}; "
        f"median of the rounds {statistics.median(ratios):.2f} ({', '.join(f'{ratio:.2f}' for ratio in ratios)}); "
        f"floor {FLOOR}"
    )
