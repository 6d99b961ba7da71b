"""The README's code runs as written; of the commands that take long only the arguments are parsed."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from glimpse_agents import ablate, compare, compute, predict, report, tune
from glimpse_agents.learning import config
from glimpse_agents.tables import statistics as seeds
from profiler import profile_training
from torch.distributed.run import get_args_parser

from glimpse_env.extract.__main__ import parse_arguments as parse_extraction

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"^```(\w+)( long)?\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
PYTHON = [code for language, _, code in BLOCKS if language == "python"]
COMMANDS = [
    line.split("#")[0].strip()
    for language, _, code in BLOCKS
    if language == "bash"
    for line in code.replace("\\\n", " ").splitlines()
    if re.search("python|torchrun", line.split("#")[0])
]


def load_example(name):
    """Import a script of the examples."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARSERS = {
    "agents/reinforce.py": config.parse_arguments,
    "agents.ablate": lambda arguments: config.parse_as(ablate.Arguments, arguments),
    "profiler.profile_training": lambda arguments: config.parse_as(profile_training.Arguments, arguments),
    "agents.compare": lambda arguments: config.parse_as(compare.Arguments, arguments),
    "agents.compute": compute.parse_arguments,
    "agents.predict": lambda arguments: tyro.cli(predict.Arguments, args=arguments),
    "agents.report": lambda arguments: tyro.cli(report.Arguments, args=arguments),
    "agents.tables.statistics": lambda arguments: tyro.cli(seeds.Arguments, args=arguments),
    "agents.tune": lambda arguments: config.parse_as(tune.Arguments, arguments),
    "glimpse_env.extract": parse_extraction,
    "examples/headroom.py": lambda arguments: tyro.cli(load_example("headroom").Arguments, args=arguments),
    "examples/join_clips.py": lambda arguments: tyro.cli(load_example("join_clips").Arguments, args=arguments),
    "examples/lazy_savings.py": lambda arguments: tyro.cli(load_example("lazy_savings").Arguments, args=arguments),
}


@pytest.mark.parametrize("code", PYTHON)
def test_python_blocks_run(code):
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    words = shlex.split(command.split("&&")[-1])
    if words[0] == "torchrun":
        launched = get_args_parser().parse_args(words[1:])
        words = ["python", launched.training_script, *launched.training_script_args]
    words = words[words.index("python") + 1 :]
    program, arguments = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
    if program == "glimpse_env.store":
        assert arguments[0] in ("verify", "info", "merge")
    else:
        assert PARSERS[program](arguments) is not None


def test_the_first_screen_has_both_commands():
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:25])
    assert 'pip install -e ".[all]" && python agents/reinforce.py' in first_screen
    assert 'pip install -e ".[all,test]" && pytest' in first_screen
    assert len(PYTHON) >= 1
    assert len(COMMANDS) >= 5
