"""Every example runs and says what it promises."""

import re
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_own_features_follows_what_it_sees():
    command = [sys.executable, "-W", "error", EXAMPLES / "own_features.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    following, anywhere = (float(number) for number in re.findall(r"\d\.\d\d", output))
    assert following > 0.9
    assert anywhere < 0.6
