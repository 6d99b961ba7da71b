"""Time lines: a row of true segments, and a row of predicted ones for each model."""

import dataclasses

import numpy as np
import pytest
import torch
from clip_toys import UnevenSource
from glimpse_agents.learning.episodes import Rollout
from glimpse_agents.learning.models import MODELS
from glimpse_agents.pictures.strips import Played
from glimpse_agents.pictures.timelines import timeline
from matplotlib.colors import to_rgba

from glimpse_env import Segment

TRUTHS = (Segment(0.25, 1.75, 0), Segment(2.25, 9.0, 1))
NOTHING = 2


@pytest.fixture
def source():
    """Two clips of six frames, two a second; only the second has segments."""
    return UnevenSource(
        features=np.zeros((2, 6, 3, 3, 2), np.float32), labels=np.zeros(2, np.int64), class_names=("run", "wave"),
        frames_per_second=2.0, clip_ids=("first", "second"), lengths=(6, 6), truths=((), TRUTHS),
    )  # fmt: skip


def answering(source, model, *answers):
    """Return both clips, played by a model with the same answers."""
    predictions = torch.tensor([answers, answers])
    truths = torch.tensor([[[False] * 2] * 6, [[False, False], *[[True, False]] * 3, [False, False], [False, True]]])
    shown = {
        "clips": np.array([0, 1]), "windows": np.tile(np.arange(6), (2, 1)), "predictions": predictions,
        "class_logits": 9.0 * torch.nn.functional.one_hot(predictions, 3), "frame_labels": truths, "actors": None,
    }  # fmt: skip
    others = {field.name: torch.zeros(2) for field in dataclasses.fields(Rollout) if field.name not in shown}
    rollout = Rollout(**(others | shown))
    return Played(model=MODELS[model], rollout=rollout, source=source)


def bars(figure):
    """Return row, start, end and colour of the bars."""
    found = [(bar.get_y() + bar.get_height() / 2, bar.get_x(), bar.get_width(), bar) for bar in figure.axes[0].patches]
    return [(round(row), x, round(x + width, 6), bar.get_facecolor()) for row, x, width, bar in found]


def test_rows_hold_the_truth_and_the_runs_of_each_model(source):
    models = [
        answering(source, "reinforce", NOTHING, 0, 0, 0, NOTHING, 1),
        answering(source, "random", 1, 1, 0, NOTHING, NOTHING, NOTHING),
    ]
    figure = timeline(models, 1)
    grey, green, red = (to_rgba(f"tab:{name}") for name in ("grey", "green", "red"))
    assert bars(figure) == [
        (0, 0.25, 1.75, grey), (0, 2.25, 9.0, grey),
        (1, 0.25, 1.75, green), (1, 2.25, 2.75, green),  # the true segment ends with the frames, at 2.75
        (2, -0.25, 0.75, red), (2, 0.75, 1.25, red),  # a third of "run"
    ]  # fmt: skip
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == [" run", " wave", " ✓ run", " ✓ wave", " ✗ wave", " ✗ run"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["truth", "reinforce", "random"]
    assert axis.get_xlim() == (-0.25, 2.75)
    assert axis.get_title() == "second, truth: run, wave"


def test_without_truth_nothing_is_right_or_wrong(source):
    figure = timeline([answering(source, "reinforce", *[0] * 6)], 0)
    assert bars(figure) == [(0, -0.25, 2.75, to_rgba("tab:blue"))]
    assert [text.get_text() for text in figure.axes[0].texts] == [" run"]


def test_a_label_is_cut_at_the_end_of_its_bar(source):
    one = answering(source, "reinforce", *[0] * 6)
    figure = timeline([dataclasses.replace(one, source=dataclasses.replace(source, class_names=("x" * 500, "y")))], 0)
    (text,), (bar,) = figure.axes[0].texts, figure.axes[0].patches
    figure.canvas.draw()
    end = bar.get_window_extent().x1
    assert text.get_window_extent().x1 > end == pytest.approx(text.get_tightbbox().x1)
