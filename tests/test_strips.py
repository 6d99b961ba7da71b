"""Film strips: one row for each episode, with its frames, the cells looked at, and its class scores."""

import dataclasses
import io

import numpy as np
import pytest
from agent_toys import marked_source, tiny_config
from glimpse_agents.learning.models import MODELS
from glimpse_agents.parallel.noise import Noise
from glimpse_agents.pictures.strips import DIMMED, LEGEND, SIDE, Played, film_strip, play_clips
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.playing.evaluation import class_scores
from glimpse_agents.playing.players import PlaySettings
from glimpse_agents.playing.rollout import collect_rollout
from glimpse_agents.tables.plots import png
from matplotlib.colors import to_rgba
from PIL import Image


def played(source, clips, model="reinforce", bias=0.0, **settings):
    """Return episodes of a model; `bias` is added to the logits of outputs after the three classes."""
    config = tiny_config(model=model, **settings)
    envs = make_envs(config, source, len(clips), train=False)
    policy = make_policy(config, source)
    policy.class_head.classes.bias.data[3:] += bias
    play_settings = PlaySettings(model=MODELS[model])
    rollout = collect_rollout(envs, policy, np.array(clips), play_settings, noise=Noise.seeded(1))
    return Played(model=MODELS[model], rollout=rollout, source=envs.source)


def draw(source, clips, model="reinforce", **changes):
    """Return the figure and the rollout that it shows."""
    episodes = played(source, clips, model)
    return film_strip(episodes, **changes), episodes.rollout


def rows_of(figure, columns):
    return [figure.axes[first : first + columns] for first in range(0, len(figure.axes), columns)]


@pytest.fixture
def pictured():
    """Six marked clips with pictures: frame n of clip i (from 0) is all 40 i + 10 n."""
    grey = 40 * np.arange(6)[:, None] + 10 * np.arange(4)
    images = np.broadcast_to(grey[..., None, None, None], (6, 4, 30, 30, 3)).astype(np.uint8)
    return dataclasses.replace(
        marked_source(6), images=images, clip_ids=[f"a clip of a long name {i}" for i in range(6)]
    )


def test_a_row_holds_the_frames_and_the_scores(pictured):
    figure, rollout = draw(pictured, [2, 4])
    rows = rows_of(figure, 5)
    assert len(rows) == 2
    for episode, row in enumerate(rows):
        assert [len(axis.images) for axis in row] == [1, 1, 1, 1, 0]
        scores = rollout.class_logits[episode].softmax(1)
        truth = "abc"[[2, 4][episode] % 3]
        said = [("abc"[int(frame.argmax())], float(frame.max())) for frame in scores]
        # frames are 0.1 s apart, and right predictions have another mark than wrong ones
        assert [axis.get_title() for axis in row[:4]] == [
            f"{n + 1}: {n / 10:.2f} s\n{'✓' if best == truth else '✗'} class{best} {probability:.2f}"
            for n, (best, probability) in enumerate(said)
        ]
        assert row[0].get_ylabel() == f"a clip of a long name {[2, 4][episode]}\ntruth: class{truth}"
        assert row[4].get_xlabel() == "score"
        means = class_scores(rollout.class_logits[[episode]], 3)[0]
        assert figure.get_supxlabel() == LEGEND
        assert [bar.get_width() for bar in row[4].patches] == pytest.approx(means.sort(descending=True).values.tolist())


def test_a_frame_that_abstains_is_neither_right_nor_wrong(pictured):
    drawn = played(pictured, [2, 4], abstain=True, bias=50.0).frame(0, 1)
    assert (drawn.prediction, drawn.is_right) == ("no prediction", None)
    assert drawn.probability == pytest.approx(1.0)


def test_names_that_are_not_utf_8_are_escaped(pictured):
    source = dataclasses.replace(pictured, clip_ids=["br\udce9k.mp4"] * 6)
    figure, _ = draw(source, [0])
    assert figure.axes[0].get_ylabel() == "br\\udce9k.mp4\ntruth: classa"


def test_frames_are_bright_in_the_cells_that_were_seen(pictured):
    figure, rollout = draw(pictured, [2])
    (row,) = rows_of(figure, 5)
    assert (row[0].images[0].get_array() == 80).all()  # the first frame is seen whole
    for frame, axis in enumerate(row[1:4], 1):
        middles = [SIDE // 6, SIDE // 2, SIDE * 5 // 6]
        shown, grey = axis.images[0].get_array()[np.ix_(middles, middles)][..., 0], 80 + 10 * frame
        cells = rollout.cells[0, frame - 1].tolist()
        assert shown.ravel().tolist() == [grey if cell in cells else int(grey * DIMMED) for cell in range(9)]


def test_cells_stand_at_the_frames_that_jumps_lead_to(pictured):
    shown = played(pictured, [0, 1, 2, 3, 4, 5], jumps=(1, 3), abstain=False)
    steps = shown.rollout.steps
    assert len(steps.frames.unique()) > 2  # episodes jump differently
    for episode in range(6):
        observed = [int(frame) for frame in steps.frames[episode, 1:] if frame < 4]
        for step, frame in enumerate(observed):
            assert shown.cells(episode, frame) == tuple(shown.rollout.cells[episode, step].tolist())
        for frame in {1, 2, 3} - set(observed):
            assert shown.cells(episode, frame) == ()
    film_strip(shown)


def test_columns_are_spread_from_the_first_frame_to_the_last(pictured):
    figure, _ = draw(pictured, [0], columns=2)
    assert [axis.get_title().split(":")[0] for axis in figure.axes[:2]] == ["1", "4"]
    assert len(figure.axes) == 3


def test_a_model_that_sees_everything_has_no_cells(pictured):
    figure, _ = draw(pictured, [1], model="all")
    (row,) = rows_of(figure, 5)
    assert (row[3].images[0].get_array() == 70).all()


def test_the_truth_is_green_and_shown_if_it_is_not_among_the_best():
    source = marked_source(8, classes=5)
    figure, _ = draw(source, range(8))
    lengths = set()
    for episode, row in enumerate(rows_of(figure, 5)):
        named = [label.get_text() for label in row[4].get_yticklabels()]
        green = [bar.get_facecolor() == to_rgba("tab:green") for bar in row[4].patches]
        assert [name for name, is_true in zip(named, green, strict=True) if is_true] == [
            "✓ class" + "abcde"[source.labels[episode]]
        ]
        assert sum(name.startswith("✗ ") for name in named) == len(named) - 1
        lengths.add(len(named))
    assert lengths == {3, 4}


def test_scores_are_blue_if_the_truth_is_unknown():
    figure, _ = draw(dataclasses.replace(marked_source(2), labels=np.full(2, -1)), [0])
    assert {bar.get_facecolor() for bar in figure.axes[4].patches} == {to_rgba("tab:blue")}


def test_a_source_without_pictures_is_grey():
    figure, _ = draw(marked_source(2), [0])
    assert (figure.axes[0].images[0].get_array() == 128).all()


@pytest.mark.parametrize("model", ["reinforce", "all"])
def test_clips_are_played_and_written_as_png(pictured, model):
    config = tiny_config(model=model)
    envs = make_envs(config, pictured, 3, train=False)
    episodes = play_clips(envs, make_policy(config, pictured), [5, 0, 2], greedy_play(config), seed=0)
    assert episodes.rollout.clips.tolist() == [5, 0, 2]
    with Image.open(io.BytesIO(png(film_strip(episodes)))) as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > image.height > 300
