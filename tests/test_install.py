"""Installation: the packages of the wheel, and a neighbour that owns the name `agents`."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from extraction_inputs import write_video

import glimpse_env

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parent.parent
COPIED = ("pyproject.toml", "README.md", "LICENSE", "agents", "examples", "glimpse_env")
NEIGHBOUR = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "neighbour"
version = "1.0"
[tool.setuptools]
packages = ["agents"]
"""


def test_the_list_of_packages_has_every_folder():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts) for name in ("agents", "glimpse_env")
        for path in (ROOT / name).rglob("__init__.py")
    }  # fmt: skip
    holding_code = {
        ".".join(path.parent.relative_to(ROOT).parts) for name in ("agents", "glimpse_env")
        for path in (ROOT / name).rglob("*.py")
    }  # fmt: skip
    assert folders == holding_code
    names = ["glimpse_" + name if name.partition(".")[0] == "agents" else name for name in folders]
    assert sorted(settings["packages"]) == sorted([*names, "glimpse_examples"])
    assert settings["package-dir"] == {"glimpse_agents": "agents", "glimpse_examples": "examples"}


def test_the_agents_import_each_other_relatively():
    """An absolute import of `agents` would find the neighbour's package in an installed wheel."""
    for path in (ROOT / "agents").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {"agents", "glimpse_agents"} & {name.partition(".")[0] for name in names}, path


def run(python, *arguments, cwd, ok=True):
    """Run a Python in a folder, without the paths of this environment, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel of a copy of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    return build(source, folder)


def build(source, folder):
    """Build the wheel of a source tree into a folder."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


class Environment:
    """A fresh environment that finds the dependencies in this one, but not our editable installation."""

    def __init__(self, folder):
        self.folder = folder
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        self.python = folder / "venv" / "bin" / "python"
        [self.site] = (folder / "venv" / "lib").glob("python*/site-packages")
        found = run(sys.executable, "-c", "import pytest; print(pytest.__file__)", cwd=folder).strip()
        (self.site / "dependencies.pth").write_text(f"{Path(found).parent.parent}\n")

    def pip(self, *arguments):
        run(sys.executable, "-m", "pip", "--python", self.python, *arguments, cwd=self.folder)

    def run(self, *arguments, ok=True):
        return run(self.python, *arguments, cwd=self.folder, ok=ok)


def test_the_citation_names_this_version():
    assert f"\nversion: {glimpse_env.__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.slow
@pytest.mark.ci
def test_a_neighbour_called_agents_survives_our_installation(wheel, tmp_path):
    neighbour = tmp_path / "neighbour"
    (neighbour / "agents").mkdir(parents=True)
    (neighbour / "agents" / "__init__.py").write_text("class Agent: pass\n")
    (neighbour / "pyproject.toml").write_text(NEIGHBOUR)
    fresh = Environment(tmp_path)
    both = (
        "import agents, glimpse_agents as ours, glimpse_env; agents.Agent(); print(ours.__file__, glimpse_env.__file__)"
    )
    fresh.pip("install", "--no-deps", "--no-index", build(neighbour, tmp_path))
    fresh.pip("install", "--no-deps", "--no-index", wheel)
    assert fresh.run("-c", both).count(str(fresh.site)) == 2
    assert (fresh.site / "glimpse_agents" / "reinforce.py").exists()
    assert not (fresh.site / "agents" / "reinforce.py").exists()
    fresh.pip("uninstall", "--yes", "videoglimpse")
    assert not (fresh.site / "glimpse_agents").exists()
    fresh.run("-c", "import agents; agents.Agent()")


PLAY = """
import gymnasium as gym, glimpse_env
env = gym.make("VideoGlimpse-v0")
env.reset(seed=1)
print(env.step(env.action_space.sample())[1], glimpse_env.__file__)
"""

LABEL = """
import glimpse_agents
print(glimpse_agents.load("run").predict("videos/walk/a.mp4").label)
"""


@pytest.mark.slow
@pytest.mark.ci
def test_the_wheel_plays_extracts_trains_and_predicts(wheel, weights, tmp_path):
    """One frame of an episode, a store of six videos, twenty updates, the test clips again, and a video's label."""
    for place in ("run/a", "run/b", "run/c", "walk/a", "walk/b", "walk/c"):
        (tmp_path / "videos" / place).parent.mkdir(parents=True, exist_ok=True)
        write_video(tmp_path / "videos" / f"{place}.mp4", frames=8)
    fresh = Environment(tmp_path)
    fresh.pip("install", "--no-deps", "--no-index", wheel)
    assert fresh.run("-c", PLAY).startswith(f"0.0 {fresh.site}")
    command = fresh.python.parent / "videoglimpse"
    assert command.exists()
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("version", glimpse_env.__version__)
    assert fresh.run(command, "--version") == f"videoglimpse {version}\n"
    videos = f"--videos videos --weights {weights} --fps 10 --frames 3 --batch-size 4 --out store"
    printed = fresh.run(command, "extract", "folder", *videos.split())
    assert printed.endswith("Next: videoglimpse train --source store\n")
    small = "--source store --updates 20 --clips 2 --rollouts 2 --models reinforce --out run"
    printed = fresh.run(command, "train", *small.split())
    assert printed.startswith("Training reinforce on store: 2 classes")
    again = fresh.run(command, "train", "--evaluate", "run")
    row = next(line for line in again.splitlines() if line.startswith("reinforce"))
    assert row in printed
    assert "usage: " in fresh.run(command, "play", "--help")
    assert fresh.run("-c", LABEL).strip() in ("run", "walk")
