"""VideoGlimpse agents: training, measuring and comparing glimpse policies, and labelling videos.

An installed wheel provides this package as `glimpse_agents`; a checkout also runs its commands as `python -m agents.X`.

    from glimpse_agents import load
    prediction = load("runs/mine").predict("holiday.mp4")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .prediction.model import load as load
    from .reinforce import train as train
    from .runs.own_agents import evaluate as evaluate
    from .runs.own_agents import save_run as save_run

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
