"""The command `videoglimpse`: all commands of the project by one name."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from glimpse_env import __version__

# Command, the module that it runs, the extra that installs its libraries, and its help.
COMMANDS = {
    "train": (f"{__package__}.reinforce", "agents", "Train models and play their test clips."),
    "predict": (f"{__package__}.predict", "all", "Label videos with a trained run."),
    "report": (f"{__package__}.report", "agents", "Write an HTML page about runs."),
    "compare": (f"{__package__}.compare", "agents", "Train and compare models over numbers of glimpses and seeds."),
    "tune": (f"{__package__}.tune", "agents", "Search settings by validation score."),
    "ablate": (f"{__package__}.ablate", "agents", "Change one setting at a time and measure the effect."),
    "compute": (f"{__package__}.compute", "agents", "Count the work of runs and measure their time."),
    "pack": (f"{__package__}.pack", "agents", "Write a run into one file."),
    "extract": ("glimpse_env.extract", "video", "Compute features of videos into a store."),
    "weights": ("glimpse_env.weights", "video", "Convert Caffe's weights of GoogLeNet."),
    "store": ("glimpse_env.store", "video", "Verify, describe or merge stores."),
    "wall": ("glimpse_env.wall", "video", "Describe a wall of cameras."),
    "play": ("play.py", "play", "Play episodes by hand, or watch a run play them."),
    "info": ("glimpse_env", "", "Print versions, or with a PATH the contents of a store."),
}


def usage() -> str:
    """Return the help."""
    lines = [f"  {name:9} {help_text}" for name, (_, _, help_text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: videoglimpse COMMAND ...",
            "",
            *lines,
            "",
            "videoglimpse COMMAND --help explains a command; videoglimpse --version prints the version.",
        ]
    )


def examples() -> Path:
    """Return the folder of the examples: of the wheel, or of the checkout."""
    above = Path(__file__).resolve().parent.parent
    return next(path for path in (above / "glimpse_examples", above / "examples") if (path / "play.py").exists())


def run(name: str, words: Sequence[str]) -> None:
    """Run a command as if it was started by itself."""
    if name == "info" and words:
        name, words = "store", ["info", *words]
    module, extra, _ = COMMANDS[name]
    sys.argv = [f"videoglimpse {name}", *words]
    try:
        if module.endswith(".py"):
            sys.path.insert(0, str(examples()))
            runpy.run_path(str(examples() / module), run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except KeyboardInterrupt:  # also while torch is being imported
        sys.exit(130)  # as a shell reports SIGINT
    except ModuleNotFoundError as error:
        sys.exit(f'error: {error.name} is missing: pip install "videoglimpse[{extra}]"')


def main() -> None:
    """Run the command line."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"videoglimpse {__version__}")
    elif name in COMMANDS:
        run(name, words)
    else:
        close = get_close_matches(name, COMMANDS, n=1)
        sys.exit(
            f"error: no command {name!r}: " + (f"did you mean {close[0]}?" if close else f"use {', '.join(COMMANDS)}")
        )


if __name__ == "__main__":
    main()
