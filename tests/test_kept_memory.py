"""Memory that is kept is memory that is not fetched again."""

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from glimpse_env.video.backbones import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
np.ones(20_000_000)
before = faults()
for _ in range(10):
    np.ones(20_000_000)  # 160 MB: 39,000 pages
print(faults() - before)
"""


def count_faults(mode):
    finished = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=False)
    if finished.returncode == 3:
        pytest.skip("this system has no glibc")
    return int(finished.stdout)


def test_kept_memory_is_not_fetched_again():
    kept = count_faults("keep")
    assert kept < 1000
    assert kept < count_faults("default") / 10
