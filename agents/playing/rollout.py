"""Playing episodes: the policy steps the vector environment through its public API, and what it did is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Self

from glimpse_env import VideoGlimpseVectorEnv

from ..learning.glimpses import (
    centre_cells,
    choice_entropy,
    draw_cells,
    draw_classes,
    draw_sets,
    oracle_cells,
    random_cells,
    random_sets,
)
from ..learning.policy import DropoutMasks, GlimpsePolicy, Looks, Views, slice_weights
from ..parallel.ranks import WHOLE, Share, uniform
from .features import sight_of
from .mirror import Mirror

Looking = Literal[
    "learned", "unlimited", "gumbel", "soft", "soft_hidden", "soft_top",
    "random", "centre", "oracle", "mean", "max", "all",
]  # fmt: skip
InView = Literal["glimpsed", "cube"]
SEES_EVERYTHING: tuple[Looking, ...] = ("mean", "max", "all", "soft", "soft_hidden")
SOFT: tuple[Looking, ...] = ("soft", "soft_hidden", "soft_top")  # read every slice, and learn by its gradient
HARD: tuple[Looking, ...] = ("learned", "unlimited", "gumbel")  # learn to choose what to see of the next frame


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How episodes are played.

    Attributes:
        looking: which cells are chosen; "mean", "max" and "all" attend to every cell of the cube.
        in_view: what the location logits may see of a frame: the slices chosen in it, or the whole cube.
        greedy: take the likeliest cells instead of drawing them.
        sample_classes: draw the predicted class instead of taking the likeliest.
        mirror: show episodes mirrored left to right with probability one half.
        mirrored_together: how many episodes in a row are mirrored or not together.
        random_share: the probability that a frame's cells are drawn at random instead.
    """

    looking: Looking = "learned"
    in_view: InView = "glimpsed"
    greedy: bool = False
    sample_classes: bool = False
    mirror: bool = False
    mirrored_together: int = 1
    random_share: float = 0.0

    @property
    def scores_cells(self) -> bool:
        """Whether location logits decide what is seen."""
        return self.looking in (*HARD, *SOFT)

    def draw_mirror(self, episodes: int, grid_size: int, generator: torch.Generator, share: Share) -> Mirror:
        """Draw which of N episodes are mirrored."""
        together = self.mirrored_together
        return Mirror(episodes, grid_size, chance=self.mirror, together=together, generator=generator, share=share)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """N whole episodes and what came of them. Cells are in the policy's coordinates: mirrored where the episode was."""

    clips: NDArray[np.int64]  # (N,)
    attention: Tensor  # (N, T, K*K) l of eq. 3, with a gradient where it is learned through
    entropy: Tensor  # (N, T - 1) nats, of the choice of what is seen in frames 2..T
    predictions: Tensor  # (N, T) int64
    class_logits: Tensor  # (N, T, outputs), as they were when acting
    frame_labels: Tensor  # (N, T, C) bool
    rewards: Tensor  # (N,) eq. 7, less the cost of looks
    true_positives: Tensor  # (N,) int64
    false_positives: Tensor  # (N,) int64
    is_correct: Tensor  # (N,) bool
    glimpses: Tensor  # (N,) int64
    actors: Tensor | None  # (N, T, K*K) bool, where the source knows
    values: Tensor | None = None  # (N, T, 1 or 2), of the states when acting, where the policy has values

    def part(self, rows: slice | Tensor) -> Self:
        """Return some of the episodes; those of a slice share memory with all of them."""
        parts: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (Looks, Views)):
                parts[field.name] = type(value)(*(tensor[rows] for tensor in value))
            elif isinstance(value, np.ndarray) and isinstance(rows, Tensor):
                parts[field.name] = value[rows.cpu().numpy()]  # NumPy takes a tensor of one element for a number
            else:
                parts[field.name] = None if value is None else value[rows]
        return dataclasses.replace(self, **parts)

    @property
    def looked(self) -> Tensor:
        """(N, T - 1, K*K) bool: what was looked at in frames 2..T."""
        return self.attention[:, 1:] > 0

    def hits(self) -> Tensor | None:
        """Return (N, T - 1, K*K) bool: the looks that fell on the actor; None where the source does not know."""
        return None if self.actors is None else self.looked & self.actors[:, 1:]


@dataclass(frozen=True, kw_only=True)
class GlimpseRollout(Rollout):
    """Episodes of a policy that chose cells, with all that it takes to play them again when the network has changed."""

    first: Looks
    rest: Looks  # (N, T - 1, ...)
    views: Views | None  # (N, T - 1, ...), where cells were scored
    cells: Tensor  # chosen at frames 1..T-1: (N, T - 1, m) int64 in order, or (N, T - 1, K*K) bool
    explored: Tensor  # (N, T - 1) bool: chosen at random, whatever the manner
    states: Tensor | None  # (N, T, H) of the LSTM, where values are learned from them


def actor_cells(envs: VideoGlimpseVectorEnv) -> Tensor | None:
    """Return (N, T, K*K) bool for the episodes just begun: where the actor is; None where the source does not know."""
    actors = []
    for clip, window in zip(envs.engine.clip.tolist(), envs.engine.window, strict=True):
        actor = envs.source.actor(clip)
        if actor is None:
            return None
        actors.append(actor[window].reshape(len(window), -1))
    return torch.from_numpy(np.stack(actors))


@torch.no_grad()
def collect_rollout(
    envs: VideoGlimpseVectorEnv,
    policy: GlimpsePolicy,
    clips: NDArray[np.int64],
    manner: Manner,
    *,
    generator: torch.Generator,
    masks: DropoutMasks | None = None,
    seed: int | Sequence[int] | None = None,
    share: Share = WHOLE,
) -> GlimpseRollout:
    """Play one episode of each of the (N,) `clips`.

    Args:
        envs: N environments that show "slices", or are "blind" beside a bank of the features on the policy's device,
            and are not reset by themselves (autoreset_mode "Disabled").
        generator: of cells, classes and mirroring, on the policy's device.
        masks: the dropout to act under; None acts without.
        seed: of the environments, which draw windows where `jitter` is on.
        share: which of a larger batch's episodes these are: what is drawn for them does not depend on it.
    """
    observations, _ = envs.reset(seed=seed, options={"clip": clips})
    player = _Player(policy, manner, generator, masks, actor_cells(envs), envs, share)
    with policy.autocast():
        if envs.engine.rules.observation == "blind":  # nothing that the policy sees comes from the environments
            planned = torch.stack([player.act(observations) for _ in range(policy.shape.frames)])
            ended = play_out(envs, observations, follow(planned), planned.device)
        else:
            ended = play_out(envs, observations, lambda seen: player.act(seen).cpu().numpy(), policy.place.device)
    return player.rollout(clips, ended)


Act = Callable[[NDArray[Any]], NDArray[np.int64]]


def follow(planned: Tensor) -> Act:
    """Return what answers any observations with the next of (T, N, m + 1) actions."""
    actions = iter(planned.cpu().numpy())
    return lambda _: next(actions)


def play_out(
    envs: VideoGlimpseVectorEnv, observations: NDArray[Any], act: Act, device: torch.device
) -> dict[str, Tensor]:
    """Step episodes that have just begun to their end, and return what the environments said, as a rollout's fields."""
    frame_labels, rewards, infos = [], np.zeros(envs.num_envs), dict[str, Any]()
    for _ in range(envs.engine.rules.frames):
        observations, rewards, _, _, infos = envs.step(act(observations))
        frame_labels.append(torch.from_numpy(infos["frame_labels"]))
    counted = ("is_correct", "glimpses", "true_positives", "false_positives")
    return {
        "frame_labels": torch.stack(frame_labels, 1).to(device),
        "rewards": torch.from_numpy(rewards).float().to(device),
    } | {name: torch.from_numpy(infos[name]) for name in counted}


def side_by_side(looks: Sequence[Looks]) -> Looks:
    """Return the looks of T frames with a frame axis after the first; where they are fewer than in other frames, looks
    of weight 0 follow them.
    """
    most = max(look.cells.shape[1] for look in looks)
    columns: list[list[Tensor]] = [[], [], []]
    for look in looks:
        missing = most - look.cells.shape[1]
        # A content of its own for each look is (N, m, D); their sum is (N, D).
        content = F.pad(look.content, (0, 0, 0, missing)) if look.content.dim() == 3 else look.content
        padded = (content, F.pad(look.cells, (0, missing)), F.pad(look.weights, (0, missing)))
        for column, part in zip(columns, padded, strict=True):
            column.append(part)
    return Looks(*(torch.stack(column, 1) for column in columns))


class _Player:
    """What N episodes look like from the policy's side while they are played."""

    def __init__(
        self,
        policy: GlimpsePolicy,
        manner: Manner,
        generator: torch.Generator,
        masks: DropoutMasks | None,
        actors: Tensor | None,
        envs: VideoGlimpseVectorEnv,
        share: Share,
    ) -> None:
        episodes, rules = envs.num_envs, envs.engine.rules
        device, size = policy.place.device, policy.shape.grid_size
        self.policy, self.manner, self.generator, self.masks = policy, manner, generator, masks
        self.share = share
        if rules.observation not in ("slices", "blind"):
            raise ValueError(
                f"rollouts take the observation 'slices' or 'blind', got {rules.observation!r}: what else "
                "a manner sees is read once for all episodes of a clip"
            )
        if rules.glimpses is None and manner.looking not in ("unlimited", "random"):
            raise ValueError(f"{manner.looking!r} takes the same number of looks in every frame: set glimpses")
        if manner.looking == "oracle" and actors is None:
            raise ValueError("the oracle needs a source that knows where the actor is, and this one does not")
        self.sight = sight_of(envs, device)
        self.everything = torch.arange(size**2, device=device).expand(episodes, -1)
        self.mirror = manner.draw_mirror(episodes, size, generator, share)
        self.actors = None if actors is None else self.mirror.values(actors.to(device), axis=2)
        self.state = policy.initial_state(episodes)
        self.visits = torch.zeros(episodes, size**2, device=device)
        self.seen = torch.ones_like(self.visits)
        self.cells, self.weights = self.everything, slice_weights(self.visits, self.everything, "uniform")
        self.looks: list[Looks] = []
        self.views: list[Views] = []
        self.chosen: list[Tensor] = []
        self.predictions: list[Tensor] = []
        self.class_logits: list[Tensor] = []
        self.cell_logits: list[Tensor] = []
        self.explored: list[Tensor] = []
        self.states: list[Tensor] = []
        self.glimpses = rules.glimpses

    def act(self, observations: NDArray[np.float32]) -> Tensor:
        """Answer the (N, m, D + 2) observations of one frame with (N, m + 1) actions, on the policy's device."""
        looks, view = self._look(observations)
        class_logits, cell_logits, self.state = self.policy.step(self.state, looks, view, self.masks)
        prediction = self._predict(class_logits)
        chosen = self._explore(self._choose(cell_logits, view))
        self.looks.append(looks)
        if view is not None:
            self.views.append(view)
        self.chosen.append(chosen)
        self.predictions.append(prediction)
        self.class_logits.append(class_logits)
        self.cell_logits.append(cell_logits)
        if self.policy.shape.values:
            self.states.append(self.state.output)
        self._turn_to(chosen, cell_logits)
        return torch.cat([self._placed(chosen), prediction[:, None]], 1)

    def _turn_to(self, chosen: Tensor, cell_logits: Tensor) -> None:
        """Look at what was chosen: (N, m) cells in order, or (N, K*K) bool."""
        if chosen.dtype == torch.bool:
            self.visits = self.visits + chosen
            self.seen = chosen.float()
            # The environment shows the chosen cells in the order of its own grid, then nothing: what nobody chose is
            # not worth the work.
            most = max(int(chosen.sum(1).max()), 1)
            order = self._placed(chosen).argsort(dim=1, descending=True, stable=True)[:, :most]
            self.cells = self.mirror.cells(order)
            self.weights = self.seen.gather(1, self.cells) / self.seen.sum(1, keepdim=True).clamp_min(1)
            return
        self.visits = self.visits.scatter_add(1, chosen, torch.ones_like(chosen, dtype=self.visits.dtype))
        if self.manner.looking not in SEES_EVERYTHING:
            # Location logits that are not learned from weigh nothing.
            kind = self.policy.config.slice_weights if self.manner.looking == "learned" else "uniform"
            self.cells, self.weights = chosen, slice_weights(cell_logits, chosen, kind)
            self.seen = torch.zeros_like(self.visits).scatter_(1, chosen, 1.0)

    def _look(self, observations: NDArray[np.float32]) -> tuple[Looks, Views | None]:
        """Return what is attended to and, where cells are scored, what the location logits see of the frame."""
        attends_to_all = self.state.frame == 0 or self.manner.looking in SEES_EVERYTHING
        scores = self.manner.scores_cells
        visible: Tensor | None = None
        if attends_to_all or (scores and self.manner.in_view == "cube"):
            cubes = self.sight.cubes(self.state.frame)
            if scores:
                visible = self.mirror.values(self.policy.project(cubes)[self.sight.episodes])
            if attends_to_all:
                return Looks(self._content_of_all(cubes), self.everything, self.weights), self._view(visible)
        slices = self.sight.slices(self.state.frame, self.mirror.cells(self.cells), observations)
        if self.glimpses is None:  # a bank has what was not chosen too
            slices = slices * (self.weights > 0)[..., None]
        if scores and visible is None:
            projected = self.policy.project(slices)
            places = self.cells[..., None].expand_as(projected)
            visible = projected.new_zeros(*self.visits.shape, projected.shape[2]).scatter_(1, places, projected)
        return self.policy.attend(slices, self.cells, self.weights), self._view(visible)

    def _view(self, visible: Tensor | None) -> Views | None:
        return None if visible is None else Views(visible, self.seen, self.visits)

    def _content_of_all(self, cubes: Tensor) -> Tensor:
        """Return the content of looks at all cells of (U, K*K, D) cubes, for N episodes."""
        if self.manner.looking == "max":
            return cubes.amax(1)[self.sight.episodes]
        count = len(cubes)
        content = self.policy.attend(cubes, self.everything[:count], self.weights[:count]).content
        content = content[self.sight.episodes]
        # A sum over all cells is the same mirrored.
        return self.mirror.values(content) if self.policy.config.encoder == "what_and_where" else content

    def rollout(self, clips: NDArray[np.int64], ended: dict[str, Tensor]) -> GlimpseRollout:
        """Put what was done beside what came of it."""
        looks = [Looks(*parts) for parts in self.looks]
        attention = [torch.zeros_like(self.visits).scatter_(1, look.cells, look.weights) for look in looks]
        logits = torch.stack(self.cell_logits[:-1], 1)
        states = torch.stack(self.states, 1) if self.states else None
        views = None
        if self.views:
            views = Views(*(torch.stack(parts, 1) for parts in zip(*self.views[:-1], strict=True)))
        return GlimpseRollout(
            clips=clips,
            attention=torch.stack(attention, 1),
            entropy=choice_entropy(logits, sets=self.glimpses is None) * self._has_a_choice,
            first=looks[0],
            rest=side_by_side(looks[1:]),
            views=views,
            cells=torch.stack(self.chosen[:-1], 1),
            explored=torch.stack(self.explored[:-1], 1),
            predictions=torch.stack(self.predictions, 1),
            class_logits=torch.stack(self.class_logits, 1),
            actors=self.actors,
            states=states,
            values=None if states is None else self.policy.values(states),
            **ended,
        )

    @property
    def _has_a_choice(self) -> bool:
        return self.manner.scores_cells or self.manner.looking == "random"

    def _placed(self, chosen: Tensor) -> Tensor:
        """Return what the environment is told of a choice."""
        return self.mirror.values(chosen).long() if chosen.dtype == torch.bool else self.mirror.cells(chosen)

    def _predict(self, class_logits: Tensor) -> Tensor:
        if not self.manner.sample_classes:
            return class_logits.argmax(1)
        return draw_classes(class_logits, self.generator, self.share)

    def _explore(self, chosen: Tensor) -> Tensor:
        """Replace a share of the N choices by random ones, and remember which."""
        explored = torch.zeros(len(chosen), dtype=torch.bool, device=chosen.device)
        if self.manner.random_share:
            draws = uniform((len(chosen),), self.generator, self.share)
            explored = draws < self.manner.random_share
            chosen = torch.where(explored[:, None], self._random(), chosen)
        self.explored.append(explored)
        return chosen

    def _random(self) -> Tensor:
        if self.glimpses is None:
            return random_sets(self.visits.shape, self.generator, self.share)
        return random_cells(self.visits.shape, self.glimpses, self.generator, self.share)

    def _choose(self, cell_logits: Tensor, view: Views | None) -> Tensor:
        """Choose what to see of the next frame; anything will do after the last one, where it is ignored."""
        looking, glimpses = self.manner.looking, self.glimpses
        if looking == "random":
            return self._random()
        if glimpses is None:
            return cell_logits > 0 if self.manner.greedy else draw_sets(cell_logits, self.generator, self.share)
        if looking in HARD:
            if self.policy.config.glimpse_order == "joint":
                return self._draw(cell_logits, glimpses)
            assert view is not None
            return self.policy.draw_in_sequence(
                self.state.output, view, self.masks, glimpses=glimpses, draw=lambda logits: self._draw(logits, 1)
            )
        if looking == "oracle":
            assert self.actors is not None
            following = min(self.state.frame, self.actors.shape[1] - 1)
            return oracle_cells(self.actors[:, following], glimpses, self.generator, self.share)
        centre = centre_cells(self.policy.shape.grid_size, glimpses).to(cell_logits.device)
        return centre.expand(len(cell_logits), -1)

    def _draw(self, logits: Tensor, glimpses: int) -> Tensor:
        """Return (N, glimpses) cells of (N, K*K) logits, in order: drawn without replacement, or the likeliest."""
        if self.manner.greedy:
            return logits.topk(glimpses, dim=1).indices
        return draw_cells(logits, glimpses, self.generator, self.share)
