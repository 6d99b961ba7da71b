"""Playing by hand: the game without a window, and the window without a screen."""

import dataclasses
import importlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from agent_toys import tiny_config
from glimpse_agents import reinforce

from glimpse_env import VideoGlimpseEnv
from glimpse_env.rendering import SIDE

pygame = pytest.importorskip("pygame")
play = importlib.import_module("play")


@pytest.fixture
def game():
    return play.Game(VideoGlimpseEnv(glimpses=2), seed=1)


def middle(cell):
    return (2 * (cell % 7) + 1) * SIDE // 14, (2 * (cell // 7) + 1) * SIDE // 14


def test_clicks_choose_cells_and_the_oldest_gives_way(game):
    for cell in (3, 10, 48):
        game.click(*middle(cell))
    assert game.cells == [10, 48]
    game.click(*middle(10))
    assert game.cells == [48]
    game.click(SIDE + 5, 20)
    assert game.cells == [48]


def test_only_chosen_cells_are_seen(game):
    assert game.seen.reshape(7, SIDE // 7, 7, SIDE // 7, 3).max((1, 3, 4)).all()  # the first frame is whole
    game.click(*middle(8))
    game.advance()
    seen = game.seen.reshape(7, SIDE // 7, 7, SIDE // 7, 3).max((1, 3, 4))
    assert np.argwhere(seen > 0).tolist() == [[1, 1]]
    assert game.env.engine.cells[0].tolist() == [8, -1]


def test_right_guesses_win_and_space_starts_another_clip(game):
    truth = game.env.source.segments(int(game.env.engine.clip[0]))[0].label
    game.choose(truth)
    game.choose(99)
    for _ in range(16):
        assert "looks left" in game.lines()[0]
        game.advance()
    assert game.reward == 8.0
    assert f"it was {game.env.class_names[truth]}: 16 of 16 right, reward 8.0" in game.lines()[0]
    game.click(*middle(3))
    assert game.cells == []
    game.advance()
    assert game.reward is None
    assert game.env.engine.frame[0] == 1


def test_the_clip_is_shown_again_with_its_actor(game):
    game.replay()
    assert (game.replayed, game.actor) == (0, [])  # not before the end
    for _ in range(16):
        game.advance()
    source, clip = game.env.source, int(game.env.engine.clip[0])
    places = []
    for frame in range(16):
        assert game.actor == [tuple(place) for place in np.argwhere(source.actor(clip)[frame]).tolist()]
        places += game.actor
        assert game.seen.reshape(7, SIDE // 7, 7, SIDE // 7, 3).max((1, 3, 4)).all()
        game.replay()
    assert len(set(places)) > 1  # the actor walks
    game.replay()
    assert game.replayed == 2  # after frame 16 comes frame 1
    game.advance()
    assert (game.replayed, game.actor) == (0, [])


def test_the_poses_of_synthetic_clips_are_explained(game, toy):
    assert game.poses() == ["A", "B", "C", "D"]
    images = np.zeros((5, 4, 30, 30, 3), np.uint8)
    own = dataclasses.replace(toy, images=images, class_names=("A", "B", "C"))
    assert play.Game(VideoGlimpseEnv(source=own, glimpses=1), seed=1).poses() == []
    pose = pygame.surfarray.array3d(play.draw_pose("B"))  # lying: nothing above and below
    assert pose.any((1, 2)).all()
    assert np.flatnonzero(pose.any((0, 2))).tolist() == list(range(12, 30))


def test_the_window_draws_choices_grid_poses_and_help(game, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    screen = play.open_window(SIDE + 100)
    pygame.font.init()
    font = pygame.font.Font(None, 18)
    game.click(*middle(8))
    play.show(game, screen, font)
    pixels = pygame.surfarray.array3d(screen)
    assert tuple(pixels[SIDE // 7 + 1, SIDE // 7 + 5]) == play.CHOSEN
    assert tuple(pixels[3 * SIDE // 7, 5]) == play.GREY
    assert (pixels[SIDE:] == play.AMBER).all(2).any()
    for line in game.lines():
        assert font.size(line)[0] < screen.get_width() - 6, line
    assert play.HELP in game.lines()
    pygame.quit()


def test_an_agent_plays_by_itself():
    env, plan = play.watch(Path("synthetic"), None, "test")
    game = play.Game(env, seed=1, plan=plan)
    clip = int(env.engine.clip[0])
    actor, planned = env.source.actor(clip), plan(clip)
    looks_on_actor = 0
    for frame, (cells, _, guess) in enumerate(planned):
        game.click(*middle(24))  # without effect, as keys that guess
        game.choose(7 - guess)
        assert (game.cells, game.guess) == (cells, guess)
        assert len(cells) == (5 if frame < 15 else 0)
        looks_on_actor += frame < 15 and actor[frame + 1].reshape(-1)[cells].any()
        assert game.reward is None
        game.pass_time()
    assert looks_on_actor >= 13  # its focus is 0.998
    assert env.engine.predictions[0].tolist() == [guess for _, _, guess in planned]
    assert game.info["is_correct"]
    assert game.replayed == 1
    game.pass_time()
    assert game.replayed == 2
    game.advance()
    assert game.reward is None
    assert len(game.cells) == 5


def test_an_agent_takes_its_own_number_of_looks(capsys):
    with pytest.raises(SystemExit):
        play.parse_arguments(["--agent", "synthetic", "--glimpses", "3"])
    assert "--glimpses cannot be used with --agent" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="error: no run in nowhere"):
        play.main("synthetic", "train", None, None, Path("nowhere"))


def test_without_a_display_it_exits_in_one_line(game, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pygame.display, "get_driver", lambda: "offscreen")
    with pytest.raises(SystemExit, match="error: no display: run this on a desktop"):
        play.play(game)


def test_any_number_of_looks_and_no_prediction():
    game = play.Game(VideoGlimpseEnv(source="synthetic-untrimmed", glimpses=None), seed=1)
    assert game.choices[-1] == "no prediction"
    for cell in range(9):
        game.click(*middle(cell))
    game.choose(8)
    for _ in range(48):
        game.advance()
    assert game.env.engine.predictions[0].tolist() == [8] * 48
    assert "0 of 48 right, reward 0.0" in game.lines()[0]
    names = [game.env.class_names[label] for label in np.flatnonzero(game.info["label"])]
    assert game.lines()[0].startswith(f"it was {' and '.join(names)}: ")
    assert game.info["glimpses"] == 9


def test_a_run_that_jumps_is_watched_at_its_observed_frames(tmp_path):
    config = tiny_config(source="synthetic-easy", jumps=(1, 2), random_jumps=True, updates=1, glimpses=1)
    reinforce.train(config, tmp_path / "run")
    env, plan = play.watch(tmp_path / "run", None, "test")
    game = play.Game(env, seed=1, plan=plan)
    clip = int(env.engine.clip[0])
    planned, frames = plan(clip), [1]
    while game.reward is None:
        game.advance()
        frames.append(int(game.info["frame"]))
    stands = np.diff([*frames[:-1], 5])  # four frames
    assert 1 < len(planned) == int(game.info["frames_observed"]) <= 4
    assert [min(1 + jump[0], left) for (_, jump, _), left in zip(planned, stands, strict=True)] == stands.tolist()
    assert env.engine.predictions[0].tolist() == np.repeat([guess for *_, guess in planned], stands).tolist()


def test_a_clip_without_a_label(toy):
    images = np.zeros((5, 4, 30, 30, 3), np.uint8)
    game = play.Game(VideoGlimpseEnv(source=dataclasses.replace(toy, images=images), glimpses=1), seed=1)
    game.env.reset(options={"clip": 4})
    for _ in range(4):
        game.advance()
    assert game.lines()[0].startswith("it was unknown")


def test_the_window_takes_keys_and_clicks(game, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    events = [
        pygame.event.Event(pygame.MOUSEBUTTONDOWN, pos=middle(8)),
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_2),
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_DOWN),
        pygame.event.Event(pygame.KEYDOWN, key=pygame.K_SPACE),
        pygame.event.Event(pygame.QUIT),
    ]
    monkeypatch.setattr(pygame.event, "wait", lambda _: events.pop(0))
    play.play(game)
    assert game.env.engine.predictions[0, 0] == 2
    assert game.env.engine.cells[0].tolist() == [8, -1]


@pytest.mark.filterwarnings("ignore:.*The HumanRendering wrapper is being applied")
def test_gymnasium_shows_it_to_people(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make("VideoGlimpse-v0", render_mode="human")
    env.reset(seed=1)
    env.step(env.action_space.sample())
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert shown.shape == (336, 384, 3)
    assert shown.max() > 100
    env.close()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_gymnasium_records_it(tmp_path):
    pytest.importorskip("moviepy")
    env = gym.wrappers.RecordVideo(gym.make("VideoGlimpse-v0", render_mode="rgb_array"), str(tmp_path / "videos"))
    env.reset(seed=1)
    terminated = False
    while not terminated:
        *_, terminated, _, _ = env.step(env.action_space.sample())
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
