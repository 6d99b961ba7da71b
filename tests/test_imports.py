"""Imports: the environment needs gymnasium and numpy alone, and never the agents; messages name installed commands."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from glimpse_agents.__main__ import COMMANDS

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "PIL", "av", "decord", "filelock", "matplotlib", "pygame", "ray", "safetensors", "sb3_contrib", "stable_baselines3",
    "tensorboard", "torch", "torchvision", "tqdm", "tyro",
)  # fmt: skip

BLOCK_OPTIONAL = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
"""
PLAY = """
import gymnasium as gym
import glimpse_env

env = gym.make("VideoGlimpse-v0")
env.reset(seed=1)
terminated = False
while not terminated:
    _, _, terminated, _, info = env.step(env.action_space.sample())
assert info["frame"] == 16
envs = gym.make_vec("VideoGlimpse-v0", num_envs=2)
envs.reset(seed=1)
envs.step(envs.action_space.sample())
"""


def run_python(script):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )


def imports_of(path):
    """Return the dotted names that a file imports, at its top or inside its functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = path.relative_to(ROOT).parent.parts
            base = ".".join(parts[: len(parts) - node.level + 1] + ((node.module,) if node.module else ()))
            module = base if node.level else node.module
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def modules_of(package):
    return sorted((ROOT / package).rglob("*.py"))


def reached_from(start):
    """Return the modules of glimpse_env that `start` imports, directly or not, lazily or not."""
    reached, waiting = set(), {start}
    while waiting:
        path = ROOT / f"{waiting.pop().replace('.', '/')}.py"
        path = path if path.exists() else path.with_suffix("") / "__init__.py"
        if path.exists() and path not in reached:
            reached.add(path)
            waiting |= {name for name in imports_of(path) if name.partition(".")[0] == "glimpse_env"}
    return reached


def test_an_episode_needs_the_base_dependencies_alone():
    done = run_python(BLOCK_OPTIONAL + PLAY)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", OPTIONAL)
def test_the_blocker_blocks(name):
    done = run_python(BLOCK_OPTIONAL + f"import {name}")
    assert f"ModuleNotFoundError: {name} is blocked" in done.stderr


def test_rendering_without_pillow_names_the_remedy():
    done = run_python(
        BLOCK_OPTIONAL + "import gymnasium, glimpse_env\ngymnasium.make('VideoGlimpse-v0', render_mode='rgb_array')"
    )
    assert 'DependencyNotInstalled: rendering needs Pillow: pip install "videoglimpse[render]"' in done.stderr


def test_a_lazy_source_without_torch_names_the_remedy():
    done = run_python(
        BLOCK_OPTIONAL + "import gymnasium, glimpse_env\ngymnasium.make('VideoGlimpse-v0', source='lazy:x')"
    )
    assert 'DependencyNotInstalled: a lazy source needs torch: pip install "videoglimpse[video]"' in done.stderr


def test_an_episode_imports_nothing_optional():
    done = run_python(f"{PLAY}\nimport sys\nprint(sorted(set({OPTIONAL}) & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr


def test_gym_make_never_imports_torch():
    reached = reached_from("glimpse_env")
    assert {"env.py", "engine.py", "catalogue.py", "synthetic.py", "reader.py"} <= {path.name for path in reached}
    for path in reached:
        assert not {"torch", "torchvision"} & {name.partition(".")[0] for name in imports_of(path)}, path


@pytest.mark.parametrize("path", modules_of("glimpse_env"), ids=lambda path: path.stem)
def test_the_environment_never_imports_the_agents(path):
    assert "agents" not in {name.partition(".")[0] for name in imports_of(path)}


ORDER = ("parallel", "learning", "playing", "runs", "cost", "tables", "pictures", "prediction", "pages")


def floor_of(module):
    """Return how high a module of the agents stands: sub-packages in their order, commands above them all."""
    parts = module.split(".")
    if len(parts) > 1 and parts[1] in ORDER:
        return ORDER.index(parts[1])
    return len(ORDER)


@pytest.mark.parametrize("path", modules_of("agents"), ids=lambda path: "-".join(path.relative_to(ROOT).parts))
def test_imports_between_the_sub_packages_of_the_agents_point_down(path):
    here = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for name in imports_of(path):
        if name.partition(".")[0] == "agents" and name != "agents":
            assert floor_of(name) <= floor_of(here), f"{here} imports {name}"


def test_the_commands_of_the_agents_import_no_command_but_reinforce():
    commands = {path.stem for path in (ROOT / "agents").glob("*.py")} - {"__init__", "reinforce"}
    for command in commands:
        names = imports_of(ROOT / "agents" / f"{command}.py")
        assert not {f"agents.{other}" for other in commands} & names, command


def test_only_the_video_package_and_the_sb3_adapter_import_torch():
    allowed = {ROOT / "glimpse_env" / "sb3.py", *modules_of("glimpse_env/video")}
    for path in set(modules_of("glimpse_env")) - allowed:
        assert not {"torch", "torchvision"} & {name.partition(".")[0] for name in imports_of(path)}, path


@pytest.mark.parametrize(("one", "two"), [("agents", "glimpse_agents"), ("glimpse_agents", "agents")])
def test_two_copies_of_the_agents_are_refused(one, two):
    done = run_python(f"import {one}, {two}")
    assert done.returncode == 1
    assert (
        f"ImportError: {two} is already imported by another name, and two copies do not know each other" in done.stderr
    )


def test_messages_name_commands_that_a_wheel_installs():
    """A checkout alone has `python -m agents.X`, which only module docstrings may name."""
    for path in [*ROOT.glob("agents/**/*.py"), *ROOT.glob("glimpse_env/**/*.py"), *ROOT.glob("examples/*.py")]:
        tree = ast.parse(path.read_text())
        docstrings = [
            node.body[0].value
            for node in ast.walk(tree)
            if isinstance(node, (ast.Module, ast.FunctionDef)) and ast.get_docstring(node)
        ]
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                assert not re.search(r"\bagents[./](?=[a-z]+\b)", node.value), (path, node.value)
                named = set(re.findall(r"\bvideoglimpse (?!COMMAND)([a-z]+)", node.value)) - {"feature"}
                assert named <= COMMANDS.keys(), (path, node.value)
