"""VideoGlimpse agents: training, measuring and comparing glimpse policies, and labelling videos.

An installed wheel provides this package as `glimpse_agents`; a checkout also runs its commands as `python -m agents.X`.

    from glimpse_agents import load
    prediction = load("runs/mine").predict("holiday.mp4")
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .prediction.model import load as load
    from .reinforce import train as train
    from .runs.own_agents import evaluate as evaluate
    from .runs.own_agents import save_run as save_run

_other = sys.modules.get({"agents": "glimpse_agents", "glimpse_agents": "agents"}.get(__name__, ""))
if (_file := getattr(_other, "__file__", None)) and Path(_file).resolve() == Path(__file__).resolve():
    raise ImportError(
        f"{__name__} is already imported by another name, and two copies do not know each other's classes: import "
        "it by one name, glimpse_agents"
    )

_MODULES = {  # imported when a name is first used, since torch takes seconds
    "evaluate": "runs.own_agents",
    "load": "prediction.model",
    "save_run": "runs.own_agents",
    "train": "reinforce",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
