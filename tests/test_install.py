"""Installation: the packages of the wheel, and a neighbour that owns the name `agents`."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parent.parent
COPIED = ("pyproject.toml", "README.md", "LICENSE", "agents", "glimpse_env")
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
    assert sorted(settings["packages"]) == sorted(names)
    assert settings["package-dir"] == {"glimpse_agents": "agents"}


def test_the_agents_import_each_other_relatively():
    """An absolute import of `agents` would find the neighbour's package in an installed wheel."""
    for path in (ROOT / "agents").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {"agents", "glimpse_agents"} & {name.partition(".")[0] for name in names}, path


@pytest.mark.slow
@pytest.mark.ci
def test_a_neighbour_called_agents_survives_our_installation(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(python, *arguments, ok=True):
        done = subprocess.run(
            [python, *map(str, arguments)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode == 0) == ok, done.stdout + done.stderr
        return done.stdout

    source, neighbour = tmp_path / "source", tmp_path / "neighbour"
    source.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    (neighbour / "agents").mkdir(parents=True)
    (neighbour / "agents" / "__init__.py").write_text("class Agent: pass\n")
    (neighbour / "pyproject.toml").write_text(NEIGHBOUR)
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", source, neighbour)
    ours, theirs = (next((tmp_path / "wheels").glob(f"{name}-*.whl")) for name in ("videoglimpse", "neighbour"))

    # A fresh environment that finds the dependencies in this one, but not our editable installation of this checkout.
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    [site] = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    found = run(sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    (site / "dependencies.pth").write_text(found + "\n")

    def pip(*arguments):
        run(sys.executable, "-m", "pip", "--python", python, *arguments)

    both = (
        "import agents, glimpse_agents as ours, glimpse_env; agents.Agent(); print(ours.__file__, glimpse_env.__file__)"
    )
    train = "--updates 1 --clips 2 --rollouts 2 --models centre --out run"
    pip("install", "--no-deps", "--no-index", theirs)
    pip("install", "--no-deps", "--no-index", ours)
    assert run(python, "-c", both).count(str(site)) == 2
    assert run(python, "-m", "glimpse_agents.reinforce", *train.split()).startswith("Training centre on synthetic")
    assert (site / "glimpse_agents" / "reinforce.py").exists()
    assert not (site / "agents" / "reinforce.py").exists()
    pip("uninstall", "--yes", "videoglimpse")
    assert not (site / "glimpse_agents").exists()
    run(python, "-c", "import agents; agents.Agent()")
