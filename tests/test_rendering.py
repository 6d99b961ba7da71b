"""Pictures of an episode: seen cells are bright, the others dim, and the caption shows prediction and truth."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

from glimpse_env import ArraySource, VideoGlimpseEnv, VideoGlimpseVectorEnv
from glimpse_env.rendering import CAPTION_HEIGHT, PLAIN, RIGHT, SIDE, WRONG, draw

GREY = 200


@pytest.fixture
def pictured():
    """One clip of three frames, a 2 x 2 grid; frame n is grey all over, 200 + 10 n."""
    grey = np.arange(3, dtype=np.uint8)[None, :, None, None, None] * 10 + GREY
    return ArraySource(
        features=np.ones((1, 3, 2, 2, 1), np.float32),
        labels=np.array([1]),
        class_names=("run", "jump"),
        images=np.broadcast_to(grey, (1, 3, 8, 8, 3)),
    )


def middles(picture, size):
    """Return (size, size), the red of each cell's middle."""
    at = (np.arange(size) * 2 + 1) * SIDE // (2 * size)
    return picture[np.ix_(at, at)][..., 0]


def prediction_colours(picture):
    """Return which of the three colours the caption's second line has, left half."""
    line = picture[SIDE + 26 :, : SIDE // 2].reshape(-1, 3)
    return {colour for colour in (RIGHT, WRONG, PLAIN) if (line == colour).all(1).any()}


def test_seen_cells_are_bright_and_the_others_dim(pictured):
    env = VideoGlimpseEnv(source=pictured, glimpses=2, render_mode="rgb_array")
    env.reset()
    picture = env.render()
    assert (picture.dtype, picture.shape) == (np.uint8, (SIDE + CAPTION_HEIGHT, SIDE, 3))
    np.testing.assert_array_equal(middles(picture, 2), np.full((2, 2), GREY))  # the first glance is whole
    env.step(np.array([1, 2, 0]))
    np.testing.assert_array_equal(middles(env.render(), 2), [[63, 210], [210, 63]])  # 0.3 * 210 = 63
    env.step(np.array([3, 3, 0]))
    np.testing.assert_array_equal(middles(env.render(), 2), [[66, 66], [66, 220]])
    env.step(np.array([0, 0, 0]))  # the end: nothing new was seen, the last frame stays
    np.testing.assert_array_equal(middles(env.render(), 2), [[66, 66], [66, 220]])


def test_a_right_prediction_is_green(pictured):
    env = VideoGlimpseEnv(source=pictured, glimpses=1, abstain=True, render_mode="rgb_array")
    env.reset()
    assert prediction_colours(env.render()) == {PLAIN}  # nothing is predicted yet
    for prediction, colour in ((1, RIGHT), (2, PLAIN), (0, WRONG)):
        env.step(np.array([0, prediction]))
        assert colour in prediction_colours(env.render())
        assert not {RIGHT, WRONG} - {colour} & prediction_colours(env.render())
    env.reset()
    assert prediction_colours(env.render()) == {PLAIN}  # the last episode's are forgotten


def test_an_unknown_truth_judges_nothing():
    picture = draw(np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), bool), title="", prediction="run", truth="")
    assert prediction_colours(picture) == {PLAIN}


def test_the_caption_tells_frame_and_truth():
    image, seen = np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), bool)

    def caption(**words):
        return draw(image, seen, **{"title": "a", "prediction": "b", "truth": "c", **words})[SIDE:]

    plain = caption()
    for change in ({"title": "x"}, {"prediction": "x"}, {"truth": "x"}):
        assert (caption(**change) != plain).any()
    np.testing.assert_array_equal(caption(), plain)


def test_a_source_without_pictures_shows_its_activations():
    features = np.array([1, 2, 4, 0], np.float32).reshape(1, 1, 2, 2, 1)
    source = ArraySource(features=features, labels=np.array([0]), class_names=("run",))
    env = VideoGlimpseEnv(source=source, glimpses=1, render_mode="rgb_array")
    env.reset()
    # The strongest cell is white: 255 * (1/4, 2/4, 4/4, 0). Enlarged smoothly, corners keep their own value.
    corners = env.render()[[[0], [SIDE - 1]], [0, SIDE - 1], 0]
    np.testing.assert_array_equal(corners, [[63, 127], [255, 0]])


def test_a_source_of_zeros_is_black():
    source = ArraySource(features=np.zeros((1, 1, 2, 2, 1), np.float16), labels=np.array([0]), class_names=("run",))
    env = VideoGlimpseEnv(source=source, glimpses=1, render_mode="rgb_array")
    env.reset()
    assert not env.render()[:SIDE].any()


def test_an_untrimmed_clip_names_all_its_classes(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1, render_mode="rgb_array")
    env.reset(options={"clip": 0})
    both = env.render()
    env.reset(options={"clip": 1})
    assert (env.render()[SIDE + 26 :, SIDE // 2 :] != both[SIDE + 26 :, SIDE // 2 :]).any()


def test_pictures_are_fresh(pictured):
    env = VideoGlimpseEnv(source=pictured, render_mode="rgb_array", glimpses=1)
    env.reset()
    first, second = env.render(), env.render()
    assert not np.shares_memory(first, second)
    assert not np.shares_memory(first, pictured.images)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("make", [VideoGlimpseEnv, VideoGlimpseVectorEnv])
def test_rendering_before_reset(pictured, make):
    env = make(source=pictured, render_mode="rgb_array", glimpses=1)
    with pytest.raises(ResetNeeded, match=r"nothing to render: call reset\(\) before render\(\)"):
        env.render()


@pytest.mark.parametrize("make", [VideoGlimpseEnv, VideoGlimpseVectorEnv])
def test_rendering_without_a_mode_warns(pictured, make):
    env = make(source=pictured, glimpses=1)
    env.reset()
    with pytest.warns(UserWarning, match=r"render\(\) without a render mode: pass render_mode='rgb_array'"):
        assert env.render() is None


def test_an_episode_can_be_filmed():
    env = gym.make("VideoGlimpse-v0", render_mode="rgb_array_list", frames=3)
    env.reset(seed=1)
    for _ in range(3):
        env.step(env.action_space.sample())
    assert [frame.shape for frame in env.render()] == [(SIDE + CAPTION_HEIGHT, SIDE, 3)] * 4


def test_any_class_that_is_true_is_right(untrimmed):
    env = VideoGlimpseEnv(source=untrimmed, glimpses=1, abstain=True, render_mode="rgb_array")
    env.reset(options={"clip": 0})
    # Run at frame 1, run and wave at 2, wave at 3, and nothing at 4.
    for prediction, colour in ((0, RIGHT), (2, RIGHT), (0, WRONG), (2, WRONG)):
        env.step(np.array([0, prediction]))
        assert prediction_colours(env.render()) >= {colour}
        assert not {RIGHT, WRONG} - {colour} & prediction_colours(env.render())


def test_long_names_are_cut_off_at_the_edge_of_their_place():
    image, seen = np.zeros((8, 8, 3), np.uint8), np.ones((2, 2), bool)
    words = {"title": "frame 2 of 15", "prediction": "swing", "truth": "pullup"}
    short = draw(image, seen, **words)
    long = draw(image, seen, **{name: word + 40 * "m" for name, word in words.items()})
    second = slice(SIDE + 26, None)
    assert short[second, SIDE // 2 - 6 : SIDE // 2].max() == long[second, SIDE // 2 - 6 : SIDE // 2].max() == 0
    assert long[SIDE:, -6:].max() == 0
    begin = SIDE // 2 + 20  # "tr", the first letters of what stands there
    np.testing.assert_array_equal(short[second, SIDE // 2 : begin], long[second, SIDE // 2 : begin])
    np.testing.assert_array_equal(short[SIDE : SIDE + 20, :80], long[SIDE : SIDE + 20, :80])
