"""Profiler of training: seconds of each part of an iteration, next to the limits of the machine.

    python tests/benchmarks/profile_training.py --source STORE --clips 32
    python tests/benchmarks/profile_training.py --preset paper --clips 8 --synthetic-features 7 1024 30
    python tests/benchmarks/profile_training.py --preset paper --clips 4 --synthetic-features 7 1024 30 --sweep

It takes the flags of agents/reinforce.py. The module profiler.iteration describes the measurements.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glimpse_agents.playing.envs import open_splits
from glimpse_agents.runs.command import CommandLine, parse_command, run_command
from profiler.iteration import Part, Profile, profile_training, random_features
from profiler.limits import Limits
from profiler.size_sweep import sweep, sweep_table


def table(profile: Profile) -> str:
    """Return a profile as a table."""
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
        f"{profile.clips_per_second:.2f} clips per second",
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
class Output:
    """Profile the training of a configuration."""

    iterations: int = 3
    """Number of iterations whose median is taken."""
    synthetic_features: tuple[int, int, int] | None = None
    """K, D and T of random float16 features, which replace the source."""
    sweep: bool = False
    """Print the speed at several T, K and m, instead of a profile; one changes at a time from
    --synthetic-features."""
    json: Path | None = None
    """File for the result."""

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}")
        if self.sweep and self.synthetic_features is None:
            raise ValueError("--sweep changes sizes, so it needs random features: give --synthetic-features K D T")


def parse_arguments(arguments: Sequence[str] | None = None) -> CommandLine[Output]:
    """Read the command line."""
    line = parse_command(Output, arguments, models=("reinforce",), program="profile_training.py")
    if line.models != ("reinforce",):
        raise ValueError(f"only reinforce can be profiled, got --models {' '.join(line.models)}: leave out --models")
    if line.output.json is not None and not line.output.json.parent.is_dir():
        raise FileNotFoundError(f"--json {line.output.json}: there is no folder {line.output.json.parent}")
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the measurement that the command line asks for."""
    line = parse_arguments(arguments)
    config, output = line.config, line.output
    if output.synthetic_features is not None:
        config = config.with_settings({"frames": None})  # a preset may have set T
    if output.sweep:
        assert output.synthetic_features is not None
        points = sweep(config, *output.synthetic_features, iterations=output.iterations)
        print(sweep_table(points))
        result: Any = [dataclasses.asdict(point) for point in points]
    else:
        if output.synthetic_features is None:
            source = open_splits(config)["train"]
        else:
            source = random_features(*output.synthetic_features, config.training.clips)
        profile = profile_training(config, source, iterations=output.iterations)
        print(table(profile))
        result = profile.to_json()
    if output.json is not None:
        output.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
