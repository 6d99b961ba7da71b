"""Where the time of a training iteration goes, and how far each part is from what the machine can do.

    python -m agents.profile_training --source STORE --clips 32
    python -m agents.profile_training --preset paper --clips 8 --synthetic-features 7 1024 30    # no store needed
    python -m agents.profile_training --preset paper --clips 4 --synthetic-features 7 1024 30 --sweep

It takes the flags of agents/reinforce.py. What is measured, and how, each time the median of some iterations after a
warm-up, so that what else the machine did in one of them does not count:

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
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from agents import reinforce, rollout
from agents.building import check_device, check_playable, open_splits
from agents.config import Config, parse_as
from agents.costs import Cost, Sizes, rollout_costs, update_costs
from agents.objective import Advantages, glimpse_losses
from agents.policy import DropoutMasks, GlimpsePolicy
from agents.rollout import Rollout
from agents.sight import feature_type
from glimpse_env import ArraySource, ClipSource

CLASSES = 51  # of random features, as many as HMDB-51 has
BANK_BYTES = 2**28  # of random features, more than caches hold
SWEPT_FRAMES, SWEPT_GRIDS, SWEPT_GLIMPSES = (8, 30, 60, 120, 240), (7, 14), (1, 5, 15, 30, 49)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the machine can do, measured."""

    flops_per_second: float
    """Of a large float32 matrix product."""
    bytes_per_second: float
    """Of a large copy, read and written."""

    def seconds(self, cost: Cost) -> float:
        """Return the least time that a cost can take."""
        return max(cost.flops / self.flops_per_second, cost.bytes / self.bytes_per_second)

    def best(self, other: Limits) -> Limits:
        """Return the higher of each of two measurements."""
        return Limits(
            flops_per_second=max(self.flops_per_second, other.flops_per_second),
            bytes_per_second=max(self.bytes_per_second, other.bytes_per_second),
        )

    def bound(self, cost: Cost) -> Literal["compute", "memory"]:
        """Return which of the two limits a cost meets first."""
        is_compute = cost.flops / self.flops_per_second > cost.bytes / self.bytes_per_second
        return "compute" if is_compute else "memory"


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


def now(device: torch.device) -> float:
    """Return the time in seconds once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure_limits(device: torch.device, *, size: int | None = None, copied: int | None = None) -> Limits:
    """Measure the best of five matrix products and of five copies.

    Args:
        size: of the square float32 matrices; 2048, or 8192 on a GPU.
        copied: float32 numbers to copy; 2**26, or 2**28 on a GPU.
    """
    is_gpu = device.type == "cuda"
    size, copied = size or (8192 if is_gpu else 2048), copied or (2**28 if is_gpu else 2**26)
    factor, product = torch.rand(size, size, device=device), torch.empty(size, size, device=device)
    numbers, copy = torch.rand(copied, device=device), torch.empty(copied, device=device)

    def best(function: Callable[[], object]) -> float:
        function()
        times = []
        for _ in range(5):
            begun = now(device)
            function()
            times.append(now(device) - begun)
        return min(times)

    return Limits(
        flops_per_second=2 * size**3 / best(lambda: torch.mm(factor, factor, out=product)),
        bytes_per_second=8 * copied / best(lambda: copy.copy_(numbers)),
    )


@dataclass
class Clocks:
    """Seconds spent inside functions that are clocked from outside, without those of clocked functions they call."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _inner: list[float] = field(default_factory=lambda: [0.0])

    @contextmanager
    def on(self, part: str, owner: Any, name: str, *, seen: list[Any] | None = None) -> Iterator[None]:
        """Clock `owner.name` inside the block; its arguments and result are put into `seen`."""
        original, is_own = getattr(owner, name), name in vars(owner)

        def clocked(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            begun = now(self.device)
            result = original(*args, **kwargs)
            taken = now(self.device) - begun
            self.seconds[part] = self.seconds.get(part, 0.0) + taken - self._inner.pop()
            self._inner[-1] += taken
            if seen is not None:
                seen[:] = [args, kwargs, result]
            return result

        setattr(owner, name, clocked)
        try:
            yield
        finally:
            if is_own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)


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
    rollout: Rollout
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

    def encode() -> Tensor:
        return torch.cat([policy.encode(played.first)[:, None], policy.encode(played.rest)], 1)

    with torch.no_grad(), policy.autocast():
        encoded = encode().float()
        hidden = recur(policy, encoded, masks).float()
        logits = policy(played.first, played.rest, played.views, masks)
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
        losses = glimpse_losses(known, played, masks, advantages, config, update=arm.update, looking="learned")
        back(losses.total)

    def optimise() -> None:
        torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
        arm.optimizer.step()

    return {
        "optimiser": optimise,  # first, while there is the gradient of the last update
        "slice encoder": lambda: alone(encode),
        "LSTM": lambda: alone(lambda: recur(policy, inputs, masks)),
        "class head": lambda: alone(lambda: policy.class_logits(states, inputs, masks)),
        "location head": lambda: alone(lambda: policy.cell_logits(states[:, :-1], played.views, masks)),
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


def table(profile: Profile) -> str:
    """Return a profile as lines to read."""
    sizes, limits = profile.sizes, profile.limits
    total = profile.rollout_seconds + profile.update_seconds
    lines = [
        f"B = {sizes.clips}, R = {sizes.rollouts}, T = {sizes.frames}, {sizes.grid_size} x {sizes.grid_size} x "
        f"{sizes.depth} ({sizes.in_view} in view), m = {sizes.glimpses}, LSTM {sizes.policy.layers} x "
        f"{sizes.policy.hidden_size}, {sizes.policy.encoder}, {sizes.parameters:,} parameters",
        f"{profile.device}, {profile.threads} threads; limits: matrix product {limits.flops_per_second / 1e9:,.0f} "
        f"GFLOP/s, copy {limits.bytes_per_second / 1e9:,.1f} GB/s; median of {profile.iterations} iterations",
        "",
        f"{'':31}{'ms':>9}{'share':>8}{'GFLOP':>9}{'GFLOP/s':>9}{'MB':>9}{'GB/s':>8}  bound    of limit",
    ]
    for part in profile.parts:
        lines.append(_row(part, total, limits))
    lines += [
        "",
        f"rollout {1e3 * profile.rollout_seconds:.0f} ms + update {1e3 * profile.update_seconds:.0f} ms: "
        f"{profile.clips_per_second:.2f} clips a second",
        f"environment: {profile.environment_share:.1%} of an iteration",
        f"update: {profile.update_over_bare:.2f} times the bare LSTM and heads ({1e3 * profile.bare_seconds:.0f} ms)",
    ]
    return "\n".join(lines)


def _row(part: Part, total: float, limits: Limits) -> str:
    start = f"{part.phase:9}{part.name:22}{1e3 * part.seconds:9.1f}{part.seconds / total:8.1%}"
    if not (part.flops or part.bytes) or part.seconds <= 0:
        return start
    arithmetic = f"{part.flops / 1e9:9.2f}{part.flops / 1e9 / part.seconds:9.1f}" if part.flops else f"{'-':>9}{'-':>9}"
    traffic = f"{part.bytes / 1e6:9.1f}{part.bytes / 1e9 / part.seconds:8.2f}"
    return f"{start}{arithmetic}{traffic}  {limits.bound(part.cost):8}{limits.seconds(part.cost) / part.seconds:9.0%}"


@dataclass(frozen=True, kw_only=True)
class Point:
    """Training at one of the sizes of a sweep."""

    varied: Literal["T", "K*K", "m"]
    size: int
    seconds_per_clip: float
    flops_per_clip: float
    """Needed, by agents/costs.py."""
    rollout_share: float


def sweep(config: Config, grid_size: int, depth: int, frames: int, *, iterations: int = 2) -> list[Point]:
    """Time training iterations on random features while T, K and m change, one at a time, from the sizes given."""
    check_device(config.device)
    base = {"T": frames, "K*K": grid_size**2, "m": config.glimpses}
    if base["m"] > base["K*K"]:
        raise ValueError(f"{base['m']} glimpses do not fit {grid_size} x {grid_size} cells: set --glimpses")
    points = []
    for varied, swept in (("T", SWEPT_FRAMES), ("K*K", [size**2 for size in SWEPT_GRIDS]), ("m", SWEPT_GLIMPSES)):
        for size in swept:
            sizes = base | {varied: size}
            if sizes["m"] <= sizes["K*K"]:
                side = round(sizes["K*K"] ** 0.5)
                features = random_features(side, depth, sizes["T"], config.clips)
                chosen = dataclasses.replace(config, glimpses=sizes["m"])
                points.append(_point(cast(Any, varied), size, chosen, features, iterations))
    return points


def _point(varied: Literal["T", "K*K", "m"], size: int, config: Config, source: ClipSource, iterations: int) -> Point:
    with TemporaryDirectory() as folder:
        arm = make_arm(config, source, Path(folder))
        sizes = sizes_of(arm)
        made = [iterate(arm).seconds for _ in range(iterations + 1)][1:]
    played, updated = (statistics.median(one[name] for one in made) for name in ("rollout", "update"))
    costs = (rollout_costs(sizes) | update_costs(sizes)).values()
    return Point(
        varied=varied,
        size=size,
        seconds_per_clip=(played + updated) / config.clips,
        flops_per_clip=sum(cost.flops for cost in costs) / config.clips,
        rollout_share=played / (played + updated),
    )


def straight_line(sizes: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Return (a, b) of the line values = a + b * sizes that lies nearest to the points."""
    b, a = np.polyfit(sizes, values, 1)
    return float(a), float(b)


def sweep_table(points: list[Point]) -> str:
    """Return a sweep as lines to read, with the straight lines through the time and the FLOPs of each of its parts."""
    lines = [f"{'':4}{'size':>6}{'clips/s':>9}{'ms/clip':>9}{'GFLOP/clip':>12}{'GFLOP/s':>9}{'rollout':>9}"]
    for varied in dict.fromkeys(point.varied for point in points):
        chosen = [point for point in points if point.varied == varied]
        times = [1e3 * point.seconds_per_clip for point in chosen]
        needs = [point.flops_per_clip / 1e9 for point in chosen]
        for point, time_taken, need in zip(chosen, times, needs, strict=True):
            lines.append(
                f"{varied:4}{point.size:6}{1e3 / time_taken:9.2f}{time_taken:9.1f}{need:12.3f}"
                f"{1e3 * need / time_taken:9.1f}{point.rollout_share:9.0%}"
            )
        if len(chosen) > 1:
            a, b = straight_line([point.size for point in chosen], times)
            least, more = straight_line([point.size for point in chosen], needs)
            lines.append(
                f"    ms a clip = {a:.1f} + {b:.3f} {varied}; GFLOP a clip = {least:.3f} + {more:.5f} {varied}"
            )
    return "\n".join(lines)


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


@dataclass(frozen=True, kw_only=True)
class Arguments(Config):
    """Profile the training of a configuration."""

    iterations: int = 3
    """Of which the median is taken."""
    synthetic_features: tuple[int, int, int] | None = None
    """K, D and T of random float16 features, in place of a source."""
    sweep: bool = False
    """Print clips a second against T, K and m in place of a profile, one varied at a time from --synthetic-features."""
    json: Path | None = None
    """A file for the result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.sweep and self.synthetic_features is None:
            raise ValueError("--sweep changes sizes, so it needs random features: give --synthetic-features K D T")
        if self.json is not None and not self.json.parent.is_dir():
            raise FileNotFoundError(f"--json {self.json}: there is no folder {self.json.parent}")

    @property
    def config(self) -> Config:
        """The configuration without what only this command line knows."""
        return Config(**{entry.name: getattr(self, entry.name) for entry in dataclasses.fields(Config)})


def main(arguments: Arguments) -> None:
    """Do what the command line asks."""
    config = arguments.config
    if arguments.synthetic_features is not None:
        config = dataclasses.replace(config, frames=None)  # a preset's T gives way
    if arguments.sweep:
        assert arguments.synthetic_features is not None
        points = sweep(config, *arguments.synthetic_features, iterations=arguments.iterations)
        print(sweep_table(points))
        result: Any = [dataclasses.asdict(point) for point in points]
    else:
        if arguments.synthetic_features is None:
            source = open_splits(config)["train"]
        else:
            source = random_features(*arguments.synthetic_features, config.clips)
        profile = profile_training(config, source, iterations=arguments.iterations)
        print(table(profile))
        result = profile.to_json()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(parse_as(Arguments))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
