"""READMEs: Python blocks run, commands parse, links lead to files, and the front page stays short."""

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import profile_training
import pytest
from common import task_parser
from glimpse_agents import ablate, compare, compute, pack, predict, reinforce, report, tune
from torch.distributed.run import get_args_parser

from glimpse_env.extract.__main__ import parse_arguments as parse_extraction
from glimpse_env.wall import parse_arguments as parse_wall
from glimpse_env.weights import parse_arguments as parse_weights

ROOT = Path(__file__).parent.parent
FRONT_PAGE = ROOT / "README.md"
PAGES = sorted(
    page for page in ROOT.rglob("*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
BLOCK = re.compile(r"^```(\w*)( long)?\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(language):
    """Return (page, is long, code) of every block in a language, on all pages."""
    return [
        (name_of(page), bool(long), code)
        for page in PAGES
        for written, long, code in BLOCK.findall(page.read_text())
        if written == language
    ]


PYTHON = blocks("python")
COMMANDS = sorted(
    {
        line.split(" # ")[0].strip()
        for _, _, code in blocks("bash")
        for line in code.replace("\\\n", " ").splitlines()
        if line.strip()
    }
)


def parse_file_arguments(path: Path, arguments: Sequence[str]) -> argparse.Namespace:
    """Call `parse_arguments` of a script without importing the library that the script needs."""
    tree = ast.parse(path.read_text())
    kept = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "parse_arguments"]
    future = ast.parse("from __future__ import annotations").body
    names = {"argparse": argparse, "Path": Path, "task_parser": task_parser}
    exec(compile(ast.Module([*future, *kept], []), path, "exec"), names)
    return names["parse_arguments"](arguments)


def parse_tyro_example(name):
    """Return `parse_arguments` of an example whose libraries are installed with the tests."""
    return lambda arguments: importlib.import_module(name).parse_arguments(arguments)


def parse_store(arguments):
    assert arguments[0] in ("verify", "info", "merge")
    return arguments


def parse_pytest(arguments):
    """Check that the tests named exist."""
    for word in arguments:
        assert word == "--benchmark-only" or (ROOT / word).exists(), word
    return arguments


TYRO_EXAMPLES = ("early_stop", "headroom", "join_clips", "linear_controls", "lazy_savings", "train_ppo")
PARSERS = {
    "agents/reinforce.py": reinforce.parse_arguments,
    "agents.ablate": ablate.parse_arguments,
    "agents.compare": compare.parse_arguments,
    "agents.compute": compute.parse_arguments,
    "agents.pack": pack.parse_arguments,
    "agents.predict": predict.parse_arguments,
    "agents.report": report.parse_arguments,
    "agents.tune": tune.parse_arguments,
    "tests/benchmarks/profile_training.py": lambda arguments: profile_training.parse_arguments(arguments),
    "glimpse_env.extract": parse_extraction,
    "glimpse_env.store": parse_store,
    "glimpse_env.wall": parse_wall,
    "glimpse_env.weights": parse_weights,
    "pytest": parse_pytest,
} | {f"examples/{name}.py": parse_tyro_example(name) for name in TYRO_EXAMPLES}


def parse(words):
    """Parse a command with the parser of its program."""
    if words[0] == "torchrun":
        launched = get_args_parser().parse_args(words[1:])
        words = ["python", launched.training_script, *launched.training_script_args]
    if words[0] == "pip":
        assert words[1:3] == ["install", "-e"]
        return words
    if words[0] == "pytest":
        return parse_pytest(words[1:])
    if words[0] == "bash":
        return (ROOT / words[1]).read_text()
    if words == ["pre-commit", "install"]:
        return words
    assert words[0] == "python", words
    if words[1] == "-c":
        return compile(words[2], "command", "exec")
    program, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if program not in PARSERS and program.startswith("examples/"):
        return parse_file_arguments(ROOT / program, arguments)
    return PARSERS[program](arguments)


@pytest.mark.parametrize(("page", "is_long", "code"), PYTHON)
def test_python_blocks_run(page, is_long, code):
    if is_long:
        compile(code, page, "exec")
        return
    finished = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_parse(command):
    for part in command.split(" && "):
        words = [word for word in shlex.split(part) if not re.match(r"[A-Z_]+=", word)]
        assert parse(words) is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    for link in LINK.findall(BLOCK.sub("", page.read_text())):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path.replace("\\", "")).resolve() if path else page
        assert target.exists(), link
        if anchor:
            lines = re.findall(r"^#+ (.*)$", BLOCK.sub("", target.read_text()), re.M)
            headings = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}
            assert anchor in headings, link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language(page):
    assert all(language in ("bash", "python", "text") for language, _, _ in BLOCK.findall(page.read_text()))


def test_the_front_page_is_short():
    text = FRONT_PAGE.read_text()
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1200


def test_the_first_screen_has_both_commands():
    first_screen = "\n".join(FRONT_PAGE.read_text().splitlines()[:25])
    assert 'pip install -e ".[all]" && python agents/reinforce.py' in first_screen
    assert 'pip install -e ".[all,test]" && pytest' in first_screen
    assert len(PYTHON) >= 4
    assert len(COMMANDS) >= 50
