"""Play VideoGlimpse yourself: choose cells with the mouse, and guess the action with a number key.

    pip install -e ".[play]"
    python examples/play.py

You see the first frame whole. Click the cells of the next frame that you want to see. One click too many replaces the
oldest choice. Without a click you look at the first cell, unless looks are unlimited (`--glimpses 0`). Press the number
of your class, or move through the classes with the arrow keys. Press space for the next frame. At the end you see your
score; space starts another clip, escape quits.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import gymnasium as gym
import numpy as np
from common import installed_by
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

from glimpse_env import VideoGlimpseEnv
from glimpse_env.rendering import ABSTAINED, SIDE, draw


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Look around in a video and guess the action.")
    parser.add_argument("--source", default="synthetic", help="An embedded source, or the path of a feature store.")
    parser.add_argument("--split", default="train", help="Split to play: train, validation or test.")
    parser.add_argument("--glimpses", type=int, default=5, help="Number of looks per frame; 0 for any number.")
    parser.add_argument("--seed", type=int, help="Seed of the order of clips. By default every game differs.")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    ARGUMENTS = parse_arguments()  # before the next import, so that --help works without it

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
with installed_by('pip install -e ".[play]"'):
    import pygame

LINE = 18
CHOSEN = (255, 120, 40)


class Game:
    """Episodes of one player, and the effects of keys and mouse, without a window."""

    def __init__(self, env: VideoGlimpseEnv, seed: int | None) -> None:
        self.env = env
        self.size = env.source.grid_size
        self.most = env.engine.rules.most_looks(env.source)
        self.choices = [*env.class_names, ABSTAINED][: env.action_space.nvec[-1]]
        self.begin(seed)

    def begin(self, seed: int | None = None) -> None:
        """Start another clip."""
        self.env.reset(seed=seed)
        self.cells: list[int] = []
        self.guess = 0
        self.reward: float | None = None
        self.seen = self.picture_of_frame()

    def click(self, x: int, y: int) -> None:
        """Choose the cell under a pixel for the next frame, or take the choice back."""
        if self.reward is not None or not (0 <= x < SIDE and 0 <= y < SIDE):
            return
        cell = y * self.size // SIDE * self.size + x * self.size // SIDE
        if cell in self.cells:
            self.cells.remove(cell)
        else:
            self.cells = [*self.cells, cell][-self.most :]

    def choose(self, label: int) -> None:
        """Guess a class, or "no prediction" if the episode allows it."""
        if label < len(self.choices):
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
        _, reward, terminated, _, self.info = self.env.step(np.array([*looks, self.guess]))
        self.cells = []
        self.seen = self.picture_of_frame()
        if terminated:
            self.reward = reward

    def picture_of_frame(self) -> NDArray[np.uint8]:
        """Return the visible part of the current frame."""
        engine = self.env.engine
        image = self.env.source.image(int(engine.clip[0]), engine.source_frame(0))
        if image is None:
            sys.exit("error: this source keeps no pictures of its frames: choose another --source")
        title = f"frame {engine.frame[0]} of {engine.rules.frames}"
        return draw(image, engine.seen(0), title=title, prediction="", truth="", unseen_brightness=0.0)[:SIDE]

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
                f"frame {engine.frame[0]} of {engine.rules.frames}: {left} looks left, space: next frame",
                *rows,
            ]
        labels = np.atleast_1d(self.info["label"])
        labels = np.flatnonzero(labels) if labels.dtype == np.bool_ else labels[labels >= 0]
        truth = " and ".join(self.env.class_names[label] for label in labels) or "unknown"
        score = f"{self.info['true_positives']} of {self.env.engine.rules.frames} right, reward {self.reward:.1f}"
        return [f"it was {truth}: {score}, space: another clip", *rows]


def show(game: Game, screen: pygame.Surface, font: pygame.font.Font) -> None:
    """Draw the game into the window."""
    screen.fill((20, 20, 20))
    screen.blit(pygame.surfarray.make_surface(game.seen.swapaxes(0, 1)), (0, 0))
    side = SIDE / game.size
    for cell in game.cells:
        row, column = divmod(cell, game.size)
        pygame.draw.rect(screen, CHOSEN, (column * side, row * side, side, side), width=3)
    for number, line in enumerate(game.lines()):
        screen.blit(font.render(line, True, (230, 230, 230)), (6, SIDE + 6 + number * LINE))
    pygame.display.flip()


def play(game: Game) -> None:
    """Run the window until it is closed."""
    pygame.init()
    try:
        screen = pygame.display.set_mode((SIDE + 80, SIDE + 12 + len(game.lines()) * LINE))
        pygame.display.set_caption("VideoGlimpse")
        font = pygame.font.Font(None, 18)
        while True:
            show(game, screen, font)
            event = pygame.event.wait()
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                return
            if event.type == pygame.MOUSEBUTTONDOWN:
                game.click(*event.pos)
            elif event.type == pygame.KEYDOWN and event.key == pygame.K_SPACE:
                game.advance()
            elif event.type == pygame.KEYDOWN and pygame.K_1 <= event.key <= pygame.K_9:
                game.choose(event.key - pygame.K_1)
            elif event.type == pygame.KEYDOWN and event.key in (pygame.K_UP, pygame.K_DOWN):
                game.choose((game.guess + (1 if event.key == pygame.K_DOWN else -1)) % len(game.choices))
    finally:
        pygame.quit()


def main(source: str, split: str, glimpses: int, seed: int | None) -> None:
    try:
        env = gym.make("VideoGlimpse-v0", source=source, split=split, glimpses=glimpses or None)
    except (ValueError, OSError, DependencyNotInstalled) as error:
        sys.exit(f"error: {error}")
    play(Game(env.unwrapped, seed))


if __name__ == "__main__":
    main(**vars(ARGUMENTS))
