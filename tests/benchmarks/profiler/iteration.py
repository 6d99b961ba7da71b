"""One training iteration taken apart: what its parts take, and what they need.

All times are medians of some iterations after a warm-up, so that what else the machine did in one of them does not
count:

- Iteration and rollout: an `Arm` makes its own updates, as in training, with a clock around `collect_rollout`. The
  update is all the rest.
- Parts of the rollout: further updates with clocks around the methods that do them. On a GPU each clock waits for the
  device, so together they take longer than the rollout. "conversion, records" is what no inner clock covers.
- Parts of the update: each alone, forward and backward, on the rollout and the logits of that iteration. What they
  leave of the update is "rest of the update": the graph that joins them, dropout, logging, and noise.
- The bare network beside the update: forward and backward of `nn.LSTM` and heads of the same sizes in one call each,
  without slice encoder, dropout, losses or optimiser.

Costs are counted (agents/costs.py), limits measured before and after with the same threads: a float32 matrix product
and a copy, both too large for caches. A part cannot be faster than its FLOPs at the one or its bytes at the other,
whichever takes longer ("bound"); "of limit" is that time over the part's own. Above 100 % is what fits into caches.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import torch
from glimpse_agents import reinforce
from glimpse_agents.cost.clocks import Clocks, now
from glimpse_agents.learning.config import Config
from glimpse_agents.learning.objective import Advantages, glimpse_losses
from glimpse_agents.learning.policy import DropoutMasks, GlimpsePolicy
from glimpse_agents.playing import rollout
from glimpse_agents.playing.envs import check_device, check_playable
from glimpse_agents.playing.features import feature_type
from glimpse_agents.playing.rollout import GlimpseRollout
from torch import Tensor, nn

from glimpse_env import ArraySource, ClipSource
from profiler.costs import Cost, Sizes, rollout_costs, update_costs
from profiler.limits import Limits, measure_limits

CLASSES = 51  # of random features, as many as HMDB-51 has
BANK_BYTES = 2**28  # of random features, more than caches hold


@dataclass(frozen=True, kw_only=True)
class Part:
    """The time that one part of an iteration takes, and what it needs."""

    phase: Literal["rollout", "update"]
    name: str
    seconds: float
    flops: float = 0.0
    bytes: float = 0.0

    @property
    def cost(self) -> Cost:
        """What the part needs."""
        return Cost(self.flops, self.bytes)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """One training iteration, taken apart."""

    sizes: Sizes
    device: str
    threads: int
    iterations: int
    limits: Limits
    rollout_seconds: float
    update_seconds: float
    bare_seconds: float
    """Of `nn.LSTM` and heads, forward and backward."""
    parts: tuple[Part, ...]

    @property
    def clips_per_second(self) -> float:
        """Clips, each with its R rollouts, that training gets through."""
        return self.sizes.clips / (self.rollout_seconds + self.update_seconds)

    @property
    def environment_share(self) -> float:
        """The share of environment and reading in an iteration."""
        shares = [part.seconds for part in self.parts if part.name in ("environment", "reading features")]
        return sum(shares) / (self.rollout_seconds + self.update_seconds)

    @property
    def update_over_bare(self) -> float:
        """The update's time, losses and optimiser included, over that of the bare network."""
        return self.update_seconds / self.bare_seconds

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` takes, with what follows from it."""
        derived = ("clips_per_second", "environment_share", "update_over_bare")
        return dataclasses.asdict(self) | {name: getattr(self, name) for name in derived}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Profile:
        """Rebuild a profile from what `--json` wrote."""
        sizes = fields["sizes"]
        rebuilt = {
            "sizes": Sizes(**(sizes | {"policy": type(Config().policy)(**sizes["policy"])})),
            "limits": Limits(**fields["limits"]),
            "parts": tuple(Part(**part) for part in fields["parts"]),
        }
        own = {entry.name for entry in dataclasses.fields(cls)}
        return cls(**({name: value for name, value in fields.items() if name in own} | rebuilt))


def rollout_clocks(arm: reinforce.Arm) -> list[tuple[str, Any, str]]:
    """Return what is clocked in a rollout: the part, and whose method does it."""
    source, policy = type(arm.envs.source), arm.policy
    clocks = [
        ("conversion, records", reinforce, "collect_rollout"),
        ("environment", arm.envs, "reset"),
        ("environment", arm.envs, "step"),
        ("reading features", source, "read_cubes"),
        ("reading features", source, "read_slices"),
        ("policy step", policy, "step"),
        ("drawing cells", rollout, "draw_cells"),
        ("drawing cells", rollout, "random_cells"),
    ]
    return clocks + [("gathering, projecting", policy, name) for name in ("project", "attend")]


def make_arm(config: Config, source: ClipSource, folder: Path) -> reinforce.Arm:
    """Return the learned policy with its network, optimiser and environments, past any warm-up."""
    config = dataclasses.replace(
        config, epochs=None, updates=10_000, warmup_updates=0, scorer_updates=0, abstain=config.abstains(source)
    )
    check_playable(config, source)
    return reinforce.Arm(config, "learned", folder, dict.fromkeys(("train", "validation", "test"), source))


def sizes_of(arm: reinforce.Arm) -> Sizes:
    """Return the sizes that an arm's costs follow from."""
    config, shape = arm.config, arm.policy.shape
    return Sizes(
        clips=config.clips,
        rollouts=config.rollouts,
        frames=shape.frames,
        grid_size=shape.grid_size,
        depth=shape.depth,
        outputs=shape.outputs,
        glimpses=config.glimpses,
        in_view=config.observation,
        policy=config.policy,
        parameters=sum(parameter.numel() for parameter in arm.policy.parameters()),
        stored_bytes=feature_type(arm.envs.source).itemsize,
    )


@dataclass(frozen=True)
class Iteration:
    """An update that was made, and what it was made of."""

    seconds: dict[str, float]  # of "rollout" and "update"
    rollout: GlimpseRollout
    masks: DropoutMasks


def iterate(arm: reinforce.Arm) -> Iteration:
    """Make one update of an arm, with one clock: around the rollout."""
    device, seen = torch.device(arm.config.device), list[Any]()
    clocks = Clocks(device)
    begun = now(device)
    with clocks.on("rollout", reinforce, "collect_rollout", seen=seen):
        arm._train_once()
    arm.update += 1
    played = clocks.seconds["rollout"]
    _, kwargs, result = seen
    return Iteration({"rollout": played, "update": now(device) - begun - played}, result, kwargs["masks"])


def clock_rollout(arm: reinforce.Arm) -> dict[str, float]:
    """Make one update with clocks on the parts of its rollout, and return their seconds."""
    clocks = Clocks(torch.device(arm.config.device))
    with ExitStack() as stack:
        for part, owner, name in rollout_clocks(arm):
            stack.enter_context(clocks.on(part, owner, name))
        arm._train_once()
    arm.update += 1
    return clocks.seconds


def update_parts(arm: reinforce.Arm, made: Iteration) -> dict[str, Callable[[], None]]:
    """Return each part of an update as a function that runs it alone, forward and backward, on what was played."""
    policy, config, played, masks = arm.policy, arm.config, made.rollout, made.masks
    views = played.views
    assert views is not None

    def encode() -> Tensor:
        return torch.cat([policy.encode(played.first)[:, None], policy.encode(played.rest)], 1)

    with torch.no_grad(), policy.autocast():
        encoded = encode().float()
        hidden = recur(policy, encoded, masks).float()
        logits = policy(played.first, played.rest, views, masks)
    needs_gradient = config.policy.encoder != "sum" or config.policy.frame_embedding
    inputs = encoded.requires_grad_(needs_gradient)
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

    def known_logits(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        return class_logits, cell_logits

    def lose() -> None:
        known = cast(GlimpsePolicy, known_logits)
        advantages = Advantages.of(played, config)
        # The values are not the logits' part, and cost next to nothing.
        valueless = dataclasses.replace(played, states=None)
        losses = glimpse_losses(known, valueless, masks, advantages, config, update=arm.update, looking="learned")
        back(losses.total)

    def score() -> Tensor:
        if config.policy.glimpse_order == "sequential":
            return policy.sequence_logits(states[:, :-1], views, played.cells, masks)
        return policy.cell_logits(states[:, :-1], views, masks)

    def optimise() -> None:
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        arm.optimizer.step()

    return {
        "optimiser": optimise,  # first, while there is the gradient of the last update
        "slice encoder": lambda: alone(encode),
        "LSTM": lambda: alone(lambda: recur(policy, inputs, masks)),
        "class head": lambda: alone(lambda: policy.class_logits(states, inputs, masks)),
        "location head": lambda: alone(score),
        "losses": lose,
    }


def recur(policy: GlimpsePolicy, inputs: Tensor, masks: DropoutMasks) -> Tensor:
    """Run the policy's LSTM over (N, T, W) inputs: (N, T, H)."""
    for index, layer in enumerate(policy.lstm):
        inputs, _ = layer(inputs * masks.inputs[index][:, None] if index else inputs)
    return inputs


class BareNetwork(nn.Module):
    """`nn.LSTM` with a class head and a location head of the policy's sizes, and nothing else."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        config = sizes.policy
        hidden, scorer = config.hidden_size, config.scorer_size
        self.skip = config.skip
        self.lstm = nn.LSTM(sizes.width, hidden, config.layers, batch_first=True)
        self.head = nn.Linear(hidden + sizes.width * config.skip, hidden)
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
    """Take the training of a configuration on a source apart.

    Args:
        iterations: of which the median is taken; everything runs once before it counts.
        limits: of the machine; measured without it, before and after.

    Raises:
        ValueError: the configuration cannot be played on the source, or there are no iterations.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    check_device(config.device)
    device = torch.device(config.device)
    limits_before = limits or measure_limits(device)
    seconds: dict[str, list[float]] = {}

    def clock(name: str, function: Callable[[], None]) -> None:
        begun = now(device)
        function()
        seconds.setdefault(name, []).append(now(device) - begun)

    with TemporaryDirectory() as folder:
        arm = make_arm(config, source, Path(folder))
        sizes = sizes_of(arm)
        bare = bare_network(sizes, device)
        for _ in range(iterations + 1):
            made = iterate(arm)
            clock("bare", bare)
            for name, taken in (clock_rollout(arm) | made.seconds).items():
                seconds.setdefault(name, []).append(taken)
            for name, part in update_parts(arm, made).items():
                clock(name, part)
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
    """Put times beside costs; what the update's clocks do not cover goes to its last part."""
    costs = rollout_costs(sizes)
    for name, cost in costs.items():
        yield Part(phase="rollout", name=name, seconds=seconds.get(name, 0.0), flops=cost.flops, bytes=cost.bytes)
    costs = update_costs(sizes)
    for name, cost in costs.items():
        yield Part(phase="update", name=name, seconds=seconds[name], flops=cost.flops, bytes=cost.bytes)
    rest = seconds["update"] - sum(seconds[name] for name in costs)
    yield Part(phase="update", name="rest of the update", seconds=rest)


def random_features(grid_size: int, depth: int, frames: int, clips: int) -> ArraySource:
    """Return random float16 features of at least `clips` clips, and of so many that caches do not hold them."""
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
