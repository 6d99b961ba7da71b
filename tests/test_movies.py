"""Brightness of pictures by attention, models side by side, and movies."""

import dataclasses
import io
from fractions import Fraction

import numpy as np
import pytest
from agent_toys import marked_source, tiny_config
from glimpse_agents.pictures.movies import animation, encode_gif, encode_mp4, readable_rate
from glimpse_agents.pictures.strips import (
    DARK,
    DIMMED,
    HEAT,
    LIGHT,
    SIDE,
    DrawnFrame,
    comparison_strip,
    film_strip,
    play_clips,
    upsample,
)
from glimpse_agents.playing.envs import greedy_play, make_envs, make_policy
from glimpse_agents.tables.plots import png
from PIL import Image


@pytest.fixture
def pictured():
    """Six marked clips of white pictures of 30 x 30."""
    images = np.full((6, 4, 30, 30, 3), 255, np.uint8)
    return dataclasses.replace(marked_source(6), images=images, clip_ids=[f"a $ and a $ {i}" for i in range(6)])


def played(source, model, clips=(2, 4)):
    config = tiny_config(model=model)
    envs = make_envs(config, source, len(clips), train=False)
    return play_clips(envs, make_policy(config, source), clips, greedy_play(config), seed=0)


def weights_at(row, column, size=7):
    weights = np.zeros((size, size), np.float32)
    weights[row, column] = 1
    return weights


@pytest.mark.parametrize(("row", "column"), [(0, 0), (3, 5), (6, 2)])
def test_attention_peaks_in_the_middle_of_its_cell(row, column):
    spread = upsample(weights_at(row, column), 140, 70)
    assert spread.shape == (140, 70)
    top, left = np.unravel_index(spread.argmax(), spread.shape)
    assert (top // 20, left // 10) == (row, column)
    assert spread.min() == 0  # bicubic interpolation undershoots


def test_upsampling_keeps_the_mean_and_equal_weights():
    assert upsample(np.full((7, 7), 1 / 49, np.float32), 112, 112) == pytest.approx(1 / 49, rel=1e-5)
    assert upsample(weights_at(3, 3), 140, 140).sum() == pytest.approx(20 * 20, rel=0.2)  # clipped below zero


def test_upsampling_turns_with_the_weights():
    weights = np.random.default_rng(1).random((7, 7), np.float32)
    spread = upsample(weights, 112, 112)
    np.testing.assert_allclose(upsample(weights[:, ::-1], 112, 112), spread[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(upsample(weights.T, 112, 112), spread.T, atol=1e-5)


def drawn(grey, grid_size, **attention):
    """Return the picture of a frame of one grey, 140 pixels wide."""
    fields = {"cells": None, "weights": None, "prediction": "a", "probability": 1.0, "is_right": True}
    frame = DrawnFrame(image=np.full((30, 30, 3), grey, np.uint8), seconds=0.0, **(fields | attention))
    return np.asarray(frame.picture(grid_size, 140))


def test_heat_is_strongest_at_the_largest_weight_and_absent_without_attention():
    shown = drawn(100, 7, weights=weights_at(1, 5) / 50)
    assert (shown[100, 10] == 100).all()
    yellow = np.array([252, 255, 164])  # the top of "inferno"
    assert shown[30, 110] == pytest.approx((1 - HEAT) * 100 + HEAT * yellow, abs=12)  # in the middle of the cell
    even = drawn(100, 7, weights=np.full((7, 7), 1 / 49, np.float32))
    assert even[5, 5] == pytest.approx((1 - HEAT) * 100 + HEAT * yellow, abs=2)
    assert (shown[125:, 100:] != 100).any()  # the largest weight stands in the corner


def test_cells_are_bright_and_boxed():
    shown = drawn(200, 2, cells=(1, 3))
    assert (shown[:, :70] == int(200 * DIMMED)).all()
    assert (shown[35, 105] == shown[105, 105]).all()
    assert (shown[35, 105] == 200).all()
    for top in (0, 70):  # a light line between dark ones, which shows on any ground
        assert [tuple(shown[top + inset, 105]) for inset in range(3)] == [DARK, LIGHT, DARK]
    assert (shown[:35, 70:105] != shown[70:105, 70:105]).any()  # the numbers 1 and 2
    assert (drawn(200, 2) == 200).all()  # seen whole


@pytest.mark.parametrize("model", ["soft", "soft_hidden", "soft_top"])
def test_a_strip_shows_soft_attention_from_the_first_frame_on(pictured, model):
    episodes = played(pictured, model)
    row = film_strip(episodes).axes[:5]
    for frame, axis in enumerate(row[:4]):
        seen = episodes.frame(0, frame)
        np.testing.assert_array_equal(seen.weights.ravel(), episodes.rollout.attention[0, frame])
        assert seen.cells is None
        assert (axis.images[0].get_array() == np.asarray(seen.picture(3))).all()


def test_a_comparison_has_a_row_for_each_model_on_the_same_frames(pictured):
    models = [played(pictured, model) for model in ("reinforce", "soft", "random")]
    figure = comparison_strip(models, 1, columns=3)
    rows = [figure.axes[first : first + 4] for first in range(0, len(figure.axes), 4)]
    assert [row[0].get_ylabel() for row in rows] == ["reinforce", "soft", "random"]
    for row, episodes in zip(rows, models, strict=True):
        assert [axis.get_title().split(":")[0] for axis in row[:3]] == ["1", "3", "4"]
        best = episodes.rollout.class_logits[1, 3].argmax()
        is_right = int(best) == pictured.labels[4]
        assert row[2].get_title().split()[3:5] == ["✓" if is_right else "✗", "class" + "abc"[best]]
        assert row[2].title.get_color() == ("tab:green" if is_right else "tab:red")
    assert figure.get_suptitle() == "a $ and a $ 4, truth: classb"
    png(figure)  # dollars are no mathematics


def test_an_animation_shows_every_frame_of_every_model(pictured):
    models = [played(pictured, model) for model in ("reinforce", "soft")]
    pictures = animation(models, 0)
    assert len(pictures) == 4
    assert {picture.shape for picture in pictures} == {(272, 404, 3)}
    left = [picture[36 : 36 + SIDE, 4 : 4 + SIDE] for picture in pictures]
    assert (left[0] == 255).all()  # the first frame is seen whole
    for frame in (1, 2, 3):
        middles = [SIDE // 6, SIDE // 2, SIDE * 5 // 6]
        bright = {3 * row + column for row in range(3) for column in range(3)
                  if left[frame][middles[row], middles[column]].min() > 250}  # fmt: skip
        assert bright == set(models[0].rollout.cells[0, frame - 1].tolist())
        panel = Image.fromarray(pictures[frame][36 : 36 + SIDE, 8 + SIDE : 8 + 2 * SIDE])
        assert panel.tobytes() == models[1].frame(0, frame).picture(3).tobytes()


@pytest.fixture
def pictures():
    return list(np.random.default_rng(1).integers(0, 255, (5, 40, 60, 3), np.uint8))


@pytest.mark.parametrize(("rate", "milliseconds"), [(8, 120), (5, 200), (0.5, 2000), (100, 20)])
def test_a_gif_has_every_frame_for_its_time(pictures, rate, milliseconds):
    with Image.open(io.BytesIO(encode_gif(pictures, rate))) as image:
        assert (image.format, image.n_frames, image.size) == ("GIF", 5, (60, 40))
        for frame in range(5):
            image.seek(frame)
            assert image.info["duration"] == milliseconds
        assert image.info["loop"] == 0


def test_a_gif_keeps_rare_colours():
    pictures = [np.full((40, 60, 3), 20 * shade, np.uint8) for shade in range(5)]
    pictures[2][10:16, 10:40] = (120, 220, 120)  # less than a hundredth of all
    with Image.open(io.BytesIO(encode_gif(pictures, 8))) as image:
        image.seek(2)
        assert np.asarray(image.convert("RGB"))[10, 12] == pytest.approx((120, 220, 120), abs=12)


@pytest.mark.parametrize("rate", [8.0, 29.97 / 4])
def test_an_mp4_has_every_frame_at_its_rate(pictures, rate):
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(encode_mp4(pictures, rate))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(rate).limit_denominator(1000)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [frame.shape for frame in frames] == [(40, 60, 3)] * 5


def test_fast_clips_are_slowed_down():
    assert [readable_rate(rate) for rate in (1.0, 8.0, 30.0)] == [1.0, 8.0, 8.0]
