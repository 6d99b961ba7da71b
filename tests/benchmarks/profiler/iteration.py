"""One training iteration in parts: their seconds and their costs.

All seconds are medians over several iterations after a warm-up, so that other work on the machine has little effect:

- Iteration, rollout and update: `collect` and `update` of agents/reinforce.py, as in training.
- Parts of the rollout: further rollouts with clocks around the methods of the parts. On a GPU each clock waits for the
  device, so the parts together take longer than the rollout. "conversion, records" is the time outside inner clocks.
- Parts of the update: each alone, forward and backward, on the rollout and the logits of that iteration. The remainder
  is "rest of the update": the graph that joins them, and logging.
- The bare network next to the update: forward and backward of `nn.LSTM` and heads of the same sizes in one call each,
  without slice encoder, dropout, losses or optimiser.

Costs are counted (profiler/costs.py). Limits are measured before and after with the same threads: a float32 matrix
product and a copy, both too large for caches. A part takes at least its FLOPs at the one speed or its bytes at the
other, whichever takes longer ("bound"); "of limit" is that time divided by the part's own. More than 100 % is possible
if the data fit into caches.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from glimpse_agents import reinforce
from glimpse_agents.cost.clocks import clocks, now
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.credit import Advantages
from glimpse_agents.learning.episodes import DropoutMasks, GlimpseRollout
from glimpse_agents.learning.losses import glimpse_losses
from glimpse_agents.learning.optimise import parts_to_clip
from glimpse_agents.learning.policy import GlimpsePolicy
from glimpse_agents.playing import choosing, players
from glimpse_agents.playing.envs import check_device, check_playable
from glimpse_agents.playing.features import feature_type
from glimpse_agents.runs.trainer import Trainer
from torch import Tensor, nn

from glimpse_env import ArraySource, ClipSource
from profiler.costs import Cost, Sizes, rollout_costs, update_costs
from profiler.limits import Limits, measure_limits

CLASSES = 51  # of random features, as many as HMDB-51 has
BANK_BYTES = 2**28  # of random features, too many for caches


@dataclass(frozen=True, kw_only=True)
class Part:
    """Seconds and cost of one part of an iteration."""

    phase: Literal["rollout", "update"]
    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def cost(self) -> Cost:
        """Cost of the part."""
        return Cost(self.flops, self.bytes)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One training iteration in parts."""

    sizes: Sizes
    device: str
    threads: int
    iterations: int
    limits: Limits
    rollout_seconds: float
    update_seconds: float
    bare_seconds: float
    """Seconds of `nn.LSTM` and heads, forward and backward."""
    parts: tuple[Part, ...]

    @property
    def clips_per_second(self) -> float:
        """Clips per second in training, each with R rollouts."""
        return self.sizes.clips / (self.rollout_seconds + self.update_seconds)

    @property
    def environment_share(self) -> float:
        """Share of the environment and of reading in an iteration."""
        shares = [part.seconds for part in self.parts if part.name in ("environment", "reading features")]
        return sum(shares) / (self.rollout_seconds + self.update_seconds)

    @property
    def update_over_bare(self) -> float:
        """Seconds of the update, with losses and optimiser, divided by those of the bare network."""
        return self.update_seconds / self.bare_seconds

    def to_json(self) -> dict[str, Any]:
        """Return all fields and derived numbers."""
        derived = ("clips_per_second", "environment_share", "update_over_bare")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}


def rollout_functions(trainer: Trainer) -> list[tuple[str, Any, str]]:
    """Return the functions that are timed in a rollout: part, owner and name."""
    source, policy = type(trainer.envs.source), trainer.policy
    return [
        ("conversion, records", reinforce, "collect_rollout"),
        ("environment", trainer.envs, "reset"),
        ("environment", trainer.envs, "step"),
        ("reading features", source, "read_cubes"),
        ("reading features", source, "read_slices"),
        ("policy step", policy, "step"),
        ("drawing cells", choosing, "draw_cells"),
        ("drawing cells", players, "random_cells"),
        ("gathering, projecting", policy.location_head, "project"),
        ("gathering, projecting", policy.encoder, "attend"),
    ]


def make_trainer(config: Config, source: ClipSource) -> Trainer:
    """Return a trainer of "reinforce" that has no warm-up."""
    settings = {"model": "reinforce", "epochs": None, "updates": 10_000, "warmup_share": 0.0}
    config = config.with_settings(settings).for_source(source)
    check_playable(config, source)
    return Trainer(config, dict.fromkeys(("train", "validation", "test"), source))


def sizes_of(trainer: Trainer) -> Sizes:
    """Return the sizes that determine the costs of a trainer."""
    config, shape = trainer.config, trainer.policy.shape
    return Sizes(
        clips=config.training.clips,
        rollouts=config.training.rollouts,
        frames=shape.frames,
        grid_size=shape.grid_size,
        depth=shape.depth,
        outputs=shape.outputs,
        glimpses=config.task.glimpses,
        in_view=config.policy.observation,
        policy=config.policy,
        parameters=sum(parameter.numel() for parameter in trainer.policy.parameters()),
        stored_bytes=feature_type(trainer.envs.source).itemsize,
    )


@dataclass(frozen=True)
class Iteration:
    """One iteration of training."""

    seconds: dict[str, float]  # of "rollout" and "update"
    rollout: GlimpseRollout
    masks: DropoutMasks


def iterate(trainer: Trainer) -> Iteration:
    """Play one rollout and take one update, and time both."""
    device = torch.device(trainer.config.training.device)
    start = now(device)
    played, masks = reinforce.collect(trainer)
    middle = now(device)
    reinforce.update(trainer, played, masks)
    seconds = {"rollout": middle - start, "update": now(device) - middle}
    trainer.num_updates += 1
    return Iteration(seconds, cast(GlimpseRollout, played), masks)


def time_rollout(trainer: Trainer) -> dict[str, float]:
    """Play one rollout with clocks on its parts, and return their seconds."""
    meter = clocks(torch.device(trainer.config.training.device))
    with meter.on(rollout_functions(trainer)):
        reinforce.collect(trainer)
    return meter.spent


def update_parts(trainer: Trainer, iteration: Iteration) -> dict[str, Callable[[], None]]:
    """Return for each part of an update a function that runs only this part, forward and backward."""
    policy, config, played, masks = trainer.policy, trainer.config, iteration.rollout, iteration.masks
    views = played.views
    assert views is not None

    def encode() -> Tensor:
        return torch.cat([policy.encoder(played.first)[:, None], policy.encoder(played.rest)], 1)

    with torch.no_grad(), policy.autocast():
        encoded = encode().float()
        hidden, inputs_of_head = (part.float() for part in policy.memory(encoded, masks))
        *logits, _ = policy(played.first, played.rest, views, masks)  # a profile is without jumps
    inputs = encoded.requires_grad_(config.policy.encoder != "sum")
    states = hidden.requires_grad_()
    class_logits, cell_logits = (part.detach().requires_grad_() for part in logits)

    def alone(part: Callable[[], Tensor]) -> None:
        with policy.autocast():
            output = part()
        back(output)

    def back(output: Tensor) -> None:
        if output.requires_grad:
            output.backward(torch.ones_like(output))  # type: ignore[no-untyped-call]
        for tensor in (inputs, states, class_logits, cell_logits, *policy.parameters()):
            tensor.grad = None

    def known_logits(*_: Any, **__: Any) -> tuple[Tensor, Tensor, None]:
        return class_logits, cell_logits, None

    def lose() -> None:
        known = cast(GlimpsePolicy, known_logits)
        advantages = Advantages.of(played, config)
        # Values do not depend on the logits, and cost almost nothing.
        valueless = dataclasses.replace(played, states=None)
        back(glimpse_losses(known, valueless, masks, advantages, config, update=trainer.num_updates).total)

    def score() -> Tensor:
        head = policy.location_head
        if head.is_sequential:
            return head.sequence_logits(states[:, :-1], views, played.cells, masks)
        return head(states[:, :-1], views, masks)  # type: ignore[no-any-return]

    def optimise() -> None:
        for part in parts_to_clip(policy):
            torch.nn.utils.clip_grad_norm_(part, config.training.advanced.max_grad_norm)
        trainer.optimizer.step()

    return {
        "optimiser": optimise,  # first, while there is the gradient of the last update
        "slice encoder": lambda: alone(encode),
        "LSTM": lambda: alone(lambda: policy.memory(inputs, masks)[0]),
        "class head": lambda: alone(lambda: policy.class_head(states, inputs_of_head, masks)),
        "location head": lambda: alone(score),
        "losses": lose,
    }


class BareNetwork(nn.Module):
    """`nn.LSTM` with a class head and a location head of the policy's sizes."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        config = sizes.policy
        hidden, scorer = config.hidden_size, config.advanced.scorer_size
        self.skip = config.advanced.skip
        self.lstm = nn.LSTM(sizes.width, hidden, config.layers, batch_first=True)
        self.head = nn.Linear(hidden + sizes.width * self.skip, hidden)
        self.classes = nn.Linear(hidden, sizes.outputs)
        self.visible = nn.Conv2d(sizes.projected + 2, scorer, 3, padding=1)
        self.state = nn.Linear(hidden, scorer)
        self.score = nn.Linear(scorer, 1)

    def forward(self, inputs: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
        """Score (N, T, W) inputs and (N, T, P + 2, K, K) grids: (N, T, outputs) and (N, T, K*K)."""
        hidden, _ = self.lstm(inputs)
        inner = torch.tanh(self.head(torch.cat([hidden, inputs], -1) if self.skip else hidden))
        visible = self.visible(grids.flatten(0, 1)).flatten(2).transpose(1, 2)  # (N*T, K*K, S)
        scored = self.score(torch.tanh(visible + self.state(hidden).flatten(0, 1)[:, None]))
        return self.classes(inner), scored[..., 0].reshape(*inputs.shape[:2], -1)


def bare_network(sizes: Sizes, device: torch.device) -> Callable[[], None]:
    """Return the forward and backward pass of the bare network on random inputs of an update's sizes."""
    network = BareNetwork(sizes).to(device)
    side, leading = sizes.grid_size, (sizes.episodes, sizes.frames)
    inputs = torch.rand(*leading, sizes.width, device=device)
    grids = torch.rand(*leading, sizes.projected + 2, side, side, device=device)

    def run() -> None:
        network.zero_grad(set_to_none=True)
        outputs = network(inputs, grids)
        torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])

    return run


def profile_training(
    config: Config, source: ClipSource, *, iterations: int = 3, limits: Limits | None = None
) -> Profile:
    """Measure the parts of the training of a configuration on a source.

    Args:
        config: of the training.
        source: of the clips.
        iterations: number of iterations whose median is taken, after one that does not count.
        limits: of the machine; measured before and after by default.

    Raises:
        ValueError: the configuration cannot be played on the source, or there are no iterations.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    check_device(config.training.device)
    device = torch.device(config.training.device)
    limits_before = limits or measure_limits(device)
    seconds: dict[str, list[float]] = {}

    def time_part(name: str, function: Callable[[], None]) -> None:
        start = now(device)
        function()
        seconds.setdefault(name, []).append(now(device) - start)

    trainer = make_trainer(config, source)
    sizes = sizes_of(trainer)
    bare = bare_network(sizes, device)
    for _ in range(iterations + 1):
        iteration = iterate(trainer)
        time_part("bare", bare)
        for name, taken in (time_rollout(trainer) | iteration.seconds).items():
            seconds.setdefault(name, []).append(taken)
        for name, part in update_parts(trainer, iteration).items():
            time_part(name, part)
    median = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    return Profile(
        sizes=sizes,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        threads=torch.get_num_threads(),
        iterations=iterations,
        limits=limits or limits_before.best(measure_limits(device)),
        rollout_seconds=median["rollout"],
        update_seconds=median["update"],
        bare_seconds=median["bare"],
        parts=tuple(parts_of(sizes, median)),
    )


def parts_of(sizes: Sizes, seconds: dict[str, float]) -> Iterator[Part]:
    """Join times and costs; the remaining time of the update is its last part."""
    costs = rollout_costs(sizes)
    for name, cost in costs.items():
        yield Part(phase="rollout", name=name, seconds=seconds.get(name, 0.0), flops=cost.flops, bytes=cost.bytes)
    costs = update_costs(sizes)
    for name, cost in costs.items():
        yield Part(phase="update", name=name, seconds=seconds[name], flops=cost.flops, bytes=cost.bytes)
    rest = seconds["update"] - sum(seconds[name] for name in costs)
    yield Part(phase="update", name="rest of the update", seconds=rest)


def random_features(grid_size: int, depth: int, frames: int, clips: int) -> ArraySource:
    """Return random float16 features of at least `clips` clips, too many for caches."""
    if min(grid_size, depth) < 1 or frames < 2:
        raise ValueError(f"random features need K >= 1, D >= 1 and T >= 2, got {grid_size} {depth} {frames}")
    shape = (frames, grid_size, grid_size, depth)
    count = max(clips, BANK_BYTES // (2 * int(np.prod(shape))))
    rng = np.random.default_rng(1)
    block = rng.random(2**20, np.float32).astype(np.float16)
    return ArraySource(
        features=np.resize(block, (count, *shape)),
        labels=rng.integers(0, CLASSES, count),
        class_names=tuple(f"class{label}" for label in range(CLASSES)),
    )
