"""Play VideoGlimpse yourself: choose cells with the mouse, and guess the action with a number key.

    pip install -e ".[play]"
    python examples/play.py
    python examples/play.py --agent synthetic      # watch the run that is installed with the package; needs ".[all]"

You see the first frame whole. Click the cells of the next frame that you want to see. One click too many replaces the
oldest choice. Without a click you look at the first cell, unless looks are unlimited (`--glimpses 0`). Press the number
of your class, or move through the classes with the arrow keys. Press space for the next frame. At the end you see your
score and the whole clip again, with the actor marked; space starts another clip, escape quits. An agent plays
without keys: the cells that it will look at are marked, and its guess has an arrow.

In the synthetic clips, the action is the order of the poses of the amber figure. The window shows the poses by letter.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from common import installed_by
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from glimpse_env import SyntheticSource, VideoGlimpseEnv
from glimpse_env.rendering import ABSTAINED, SIDE, draw
from glimpse_env.sources.synthetic import POSES


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look around in a video and guess the action.")
    parser.add_argument("--source", help="A synthetic source (synthetic by default), or the path of a feature store.")
    parser.add_argument("--split", default="train", help="Split to play: train, validation or test.")
    parser.add_argument("--glimpses", type=int, help="Number of looks per frame, 5 by default; 0 for any number.")
    parser.add_argument("--seed", type=int, help="Seed of the order of clips. By default every game differs.")
    parser.add_argument("--agent", type=Path, help='Run to watch, on its own source by default, such as "synthetic".')
    parsed = parser.parse_args(arguments)
    if parsed.agent is not None and parsed.glimpses is not None:
        parser.error("--glimpses cannot be used with --agent, which takes as many looks as it was trained with")
    return parsed


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next import, so that --help works without it

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
with installed_by('pip install -e ".[play]"'):
    import pygame

LINE = 18
CHOSEN, ACTOR, AMBER = (255, 120, 40), (90, 220, 255), (210, 158, 52)
GREY, WHITE, BACKGROUND = (70, 70, 70), (230, 230, 230), (20, 20, 20)
POSE_PIXELS = 42
REPLAY_MILLISECONDS = 500
HELP = "click: choose a cell   1-9, up, down: guess   space: next   escape: quit"

Plan = list[tuple[list[int], list[int], int]]  # for each observed frame: cells of the next one, jump (if any), class


def watch(run: Path, source: str | None, split: str) -> tuple[VideoGlimpseEnv, Callable[[int], Plan]]:
    """Return the environment of a trained run, and a function that plans an episode of a clip."""
    with installed_by('pip install -e ".[all]"'):
        from glimpse_agents.parallel.noise import Noise
        from glimpse_agents.playing.envs import greedy_play, make_envs, open_splits
        from glimpse_agents.playing.rollout import play as play_episodes
        from glimpse_agents.runs.folder import find_run
    folder = find_run(run)
    config = folder.record().config.with_settings({"device": "cpu"} | ({"source": source} if source else {}))
    clips = open_splits(config)[split]
    policy, envs = folder.best_policy(config, clips), make_envs(config, clips, 1, train=False)
    rules = envs.engine.rules

    def plan(clip: int) -> Plan:
        played = play_episodes(envs, policy, np.array([clip]), greedy_play(config), noise=Noise.seeded(0))
        frames = played.observed()[0].nonzero()[:, 0]
        shown = played.attention[0, frames[1:]]
        order = shown.argsort(dim=1, descending=True, stable=True).tolist()
        counts = (shown > 0).sum(1).clamp(max=rules.most_looks(clips)).tolist()
        cells = [row[:count] for row, count in zip(order, counts, strict=True)]
        jumps = [[]] * len(frames) if played.steps is None else played.steps.jumps[0, : len(frames), None].tolist()
        return list(zip([*cells, []], jumps, played.predictions[0, frames].tolist(), strict=True))

    env = gym.make("VideoGlimpse-v0", source=clips, **vars(rules) | {"observation": "glimpsed"}).unwrapped
    assert isinstance(env, VideoGlimpseEnv)
    return env, plan


class Game:
    """Episodes of one player, and the effects of keys and mouse, without a window.

    Args:
        env: that is played.
        seed: of the order of clips.
        plan: returns the cells and classes of an agent that plays a clip; you play without it.
    """

    def __init__(self, env: VideoGlimpseEnv, seed: int | None, plan: Callable[[int], Plan] | None = None) -> None:
        self.env, self.plan = env, plan
        self.size = env.source.grid_size
        self.most = env.engine.rules.most_looks(env.source)
        self.choices = [*env.class_names, ABSTAINED][: env.action_space.nvec[-1]]
        self.begin(seed)

    def begin(self, seed: int | None = None) -> None:
        """Start another clip."""
        _, info = self.env.reset(seed=seed)
        self.planned = self.plan(int(info["clip"])) if self.plan else []
        self.cells, self.jump, self.guess = self.planned.pop(0) if self.planned else ([], [], 0)
        self.reward: float | None = None
        self.replayed = 0
        self.actor: list[tuple[int, int]] = []
        self.seen = self.picture_of_frame()

    def click(self, x: int, y: int) -> None:
        """Choose the cell under a pixel for the next frame, or take the choice back."""
        if self.plan or self.reward is not None or not (0 <= x < SIDE and 0 <= y < SIDE):
            return
        cell = y * self.size // SIDE * self.size + x * self.size // SIDE
        if cell in self.cells:
            self.cells.remove(cell)
        else:
            self.cells = [*self.cells, cell][-self.most :]

    def choose(self, label: int) -> None:
        """Guess a class, or "no prediction" if the episode allows it."""
        if not self.plan and label < len(self.choices):
            self.guess = label

    def advance(self) -> None:
        """Play the chosen cells and the guess, or start another clip after the last frame."""
        if self.reward is not None:
            self.begin()
            return
        if self.env.engine.rules.glimpses is None:
            looks = [int(cell in self.cells) for cell in range(self.most)]
        else:
            chosen = self.cells or [0]
            looks = (chosen + chosen[:1] * self.most)[: self.most]  # a repeated cell is one look
        _, reward, terminated, _, self.info = self.env.step(np.array([*looks, *self.jump, self.guess]))
        self.cells = []
        if self.planned:
            self.cells, self.jump, self.guess = self.planned.pop(0)
        self.seen = self.picture_of_frame()
        if terminated:
            self.reward = reward
            self.replay()

    def pass_time(self) -> None:
        """Do without a key what comes next: the agent's choice, or at the end the next frame of the clip."""
        if self.reward is not None:
            self.replay()
        elif self.plan:
            self.advance()

    def replay(self) -> None:
        """Show the next frame of a clip that is over, whole, with the actor's cell if the source knows it."""
        if self.reward is None:
            return
        engine, clip = self.env.engine, int(self.env.engine.clip[0])
        frame = int(engine.window[0, self.replayed])
        self.replayed = (self.replayed + 1) % engine.rules.frames
        everything = np.ones((self.size, self.size), np.bool_)
        self.seen = self.picture(clip, frame, everything)
        actor = self.env.source.actor(clip)
        self.actor = [] if actor is None else [(int(row), int(column)) for row, column in np.argwhere(actor[frame])]

    def picture_of_frame(self) -> NDArray[np.uint8]:
        """Return the visible part of the current frame."""
        engine = self.env.engine
        return self.picture(int(engine.clip[0]), engine.source_frame(0), engine.seen(0))

    def picture(self, clip: int, frame: int, seen: NDArray[np.bool_]) -> NDArray[np.uint8]:
        image = self.env.source.image(clip, frame)
        if image is None:
            sys.exit("error: this source keeps no pictures of its frames: choose another --source")
        return draw(image, seen, title="", prediction="", truth="", unseen_brightness=0.0)[:SIDE]

    def poses(self) -> list[str]:
        """Return the letters of the poses that the names of the classes consist of."""
        letters = {letter for name in self.env.class_names for letter in name}
        embedded = isinstance(self.env.source, SyntheticSource)
        return sorted(letters & set("ABCD")) if embedded else []

    def lines(self) -> list[str]:
        """Return the lines below the picture."""
        classes = [
            f"{index + 1} {name}{' <' if index == self.guess else ''}" for index, name in enumerate(self.choices)
        ]
        rows = ["   ".join(classes[start : start + 4]) for start in range(0, len(classes), 4)]
        if self.reward is None:
            engine = self.env.engine
            left = self.most - len(self.cells)
            return [
                f"frame {engine.frame[0]} of {engine.rules.frames}, looks left: {left}",
                *rows,
                HELP,
            ]
        labels = np.atleast_1d(self.info["label"])
        labels = np.flatnonzero(labels) if labels.dtype == np.bool_ else labels[labels >= 0]
        truth = " and ".join(self.env.class_names[label] for label in labels) or "unknown"
        score = f"{self.info['true_positives']} of {self.env.engine.rules.frames} right, reward {self.reward:.1f}"
        return [f"it was {truth}: {score}", *rows, "space: another clip   escape: quit"]


def draw_pose(letter: str) -> pygame.Surface:
    """Draw a pose of the synthetic clips' actor."""
    body = np.array([[mark == "#" for mark in row] for row in POSES["ABCD".index(letter)]])
    pixels = body.T[..., None] * np.array(AMBER, np.uint8)
    return pygame.transform.scale(pygame.surfarray.make_surface(pixels), (POSE_PIXELS, POSE_PIXELS))


def show(game: Game, screen: pygame.Surface, font: pygame.font.Font) -> None:
    """Draw the game into the window."""
    screen.fill(BACKGROUND)
    screen.blit(pygame.surfarray.make_surface(game.seen.swapaxes(0, 1)), (0, 0))
    side = SIDE / game.size
    for line in range(1, game.size):
        pygame.draw.line(screen, GREY, (line * side, 0), (line * side, SIDE))
        pygame.draw.line(screen, GREY, (0, line * side), (SIDE, line * side))
    marked = [(divmod(cell, game.size), CHOSEN) for cell in game.cells]
    marked += [(place, ACTOR) for place in game.actor]
    for (row, column), colour in marked:
        pygame.draw.rect(screen, colour, (column * side, row * side, side, side), width=3)
    for number, letter in enumerate(game.poses()):
        top = 10 + number * (POSE_PIXELS + 30)
        screen.blit(font.render(letter, True, WHITE), (SIDE + 14, top))
        screen.blit(draw_pose(letter), (SIDE + 34, top))
    for number, line in enumerate(game.lines()):
        screen.blit(font.render(line, True, WHITE), (6, SIDE + 6 + number * LINE))
    pygame.display.flip()


def open_window(height: int) -> pygame.Surface:
    """Open the window, or exit if this machine has no screen."""
    try:
        pygame.display.init()
        shown = "SDL_VIDEODRIVER" in os.environ or pygame.display.get_driver() not in ("dummy", "offscreen")
    except pygame.error:
        shown = False
    if not shown:
        sys.exit("error: no display: run this on a desktop, or log in with ssh -X")
    pygame.display.set_caption("VideoGlimpse")
    return pygame.display.set_mode((SIDE + 100, height))


def play(game: Game) -> None:
    """Run the window until it is closed."""
    screen = open_window(SIDE + 12 + len(game.lines()) * LINE)
    pygame.font.init()
    try:
        font = pygame.font.Font(None, 18)
        while True:
            show(game, screen, font)
            event = pygame.event.wait(REPLAY_MILLISECONDS)
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                return
            if event.type == pygame.NOEVENT:
                game.pass_time()
            elif event.type == pygame.MOUSEBUTTONDOWN:
                game.click(*event.pos)
            elif event.type == pygame.KEYDOWN and event.key == pygame.K_SPACE:
                game.advance()
            elif event.type == pygame.KEYDOWN and pygame.K_1 <= event.key <= pygame.K_9:
                game.choose(event.key - pygame.K_1)
            elif event.type == pygame.KEYDOWN and event.key in (pygame.K_UP, pygame.K_DOWN):
                game.choose((game.guess + (1 if event.key == pygame.K_DOWN else -1)) % len(game.choices))
    finally:
        pygame.quit()


def main(source: str | None, split: str, glimpses: int | None, seed: int | None, agent: Path | None) -> None:
    try:
        if agent is None:
            looks = 5 if glimpses is None else glimpses or None
            env, plan = gym.make("VideoGlimpse-v0", source=source or "synthetic", split=split, glimpses=looks), None
        else:
            env, plan = watch(agent, source, split)
    except (ValueError, OSError, DependencyNotInstalled) as error:
        sys.exit(f"error: {error}")
    play(Game(env.unwrapped, seed, plan))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
