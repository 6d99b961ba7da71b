"""Film strips of a few test videos of a run."""

from __future__ import annotations

import numpy as np

from ..playing.envs import greedy_play, make_envs, open_splits
from ..playing.evaluation import VALIDATION_SEED, Evaluation, middle_clips
from ..runs.files import write_file
from ..runs.folder import RunFolder
from ..tables.plots import png
from .strips import film_strip, play_clips


def save_examples(run: RunFolder, measured: Evaluation) -> None:
    """Draw the first two test videos that a run gets right, and the first two that it gets wrong, as glimpses.png."""
    config, correct = run.record().config, np.asarray(measured.correct)
    sources = open_splits(config)
    videos = np.concatenate([np.flatnonzero(correct)[:2], np.flatnonzero(~correct)[:2]])
    clips = middle_clips(sources["test"])[videos].tolist()
    envs = make_envs(config, sources["test"], len(clips), train=False)
    policy = run.best_policy(config, sources["train"])
    played = play_clips(envs, policy, clips, greedy_play(config), seed=VALIDATION_SEED)
    write_file(run.path / "glimpses.png", png(film_strip(played)))
