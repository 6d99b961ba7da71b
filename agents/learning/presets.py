"""Presets: named defaults of a training run."""

from __future__ import annotations

from typing import get_args

from glimpse_env.catalogue import EMBEDDED

from .config import Config, Preset

PRESETS: dict[Preset, Config] = {
    "small": Config(),
    "features": Config(preset="features").with_settings(
        {
            "observation": "cube", "encoder": "sum", "standardise": False, "unit_input": True, "skip": True,
            "frame_embedding": False,
            "hidden_size": 256, "dropout": 0.7, "input_dropout": 0.3, "scorer_size": 16, "scorer_dropout": 0.3,
            "repulsion": 6.0, "mirror": True, "jitter": True, "updates": 160, "warmup_share": 0.5, "rollouts": 2,
            "learning_rate": 1e-3, "weight_decay": 5e-6, "scorer_weight_decay": 5e-4, "credit": "terminal",
            "reward": "clip_log_score", "random_share": 0.5, "validate_every": 20,
        }
    ),
    "attended": Config(preset="attended").with_settings(
        {
            "encoder": "sum", "slice_weights": "attended", "scorer": "memory", "skip": True,
            "linear_finish": True, "frame_embedding": False, "hidden_size": 256, "dropout": 0.5, "input_dropout": 0.3,
            "scorer_size": 64, "scorer_dropout": 0.3, "jitter": True, "updates": 400, "warmup_share": 0.3, "clips": 16,
            "learning_rate": 1e-3, "scorer_learning_rate": 1e-3, "weight_decay": 5e-6, "entropy_bonus": 0.01,
            "validate_every": 20,
        }
    ),
    "paper": Config(preset="paper").with_settings(
        {
            "observation": "cube", "encoder": "sum", "slice_weights": "softmax", "standardise": False,
            "frame_embedding": False, "layers": 3, "hidden_size": 512, "dropout": 0.5, "frames": 30,
            "epochs": 10.0, "warmup_share": 0.0, "learning_rate": 5e-4, "scorer_learning_rate": 5e-4,
            "weight_decay": 1e-5, "penalty": 1.0, "credit": "terminal", "reward": "eq7", "class_gradient": True,
        }
    ),
}  # fmt: skip


def preset_for(source: str, preset: Preset | None = None) -> Config:
    """Return the defaults of a preset; if none is named, those of the one that fits the source."""
    name = preset or ("small" if source in EMBEDDED else "attended")
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(get_args(Preset))}, got {name!r}")
    return PRESETS[name].with_settings({"source": source})
