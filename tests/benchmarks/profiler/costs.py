"""Cost of one training iteration, counted from sizes alone: arithmetic, and bytes to and from memory.

FLOPs are those of matrix products and convolutions, 2 for a multiplication with its addition, as in
torch.utils.flop_counter; elementwise work counts as bytes. Bytes are the least traffic: each float32 input of a part is
read once, each output is written once, and weights are read for each use, as if there were no cache. Both are needs of
the mathematics, not of a program: rollouts of one clip need its features read and projected once. (Frame 1 with
"what_and_where" is counted as implemented: every rollout embeds its cells again.)

N = B * R episodes, T frames, m glimpses, K * K cells, D depth, W the LSTM's input, H its units, P components, S units
of the location logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glimpse_agents.learning.config import PolicyConfig

FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes that determine the costs."""

    clips: int
    rollouts: int
    frames: int
    grid_size: int
    depth: int
    outputs: int
    glimpses: int
    in_view: Literal["glimpsed", "cube"]
    policy: PolicyConfig
    parameters: int
    stored_bytes: int = 2
    """Bytes of a feature in its store."""

    @property
    def episodes(self) -> int:
        """N."""
        return self.clips * self.rollouts

    @property
    def cells(self) -> int:
        """K * K."""
        return self.grid_size**2

    @property
    def width(self) -> int:
        """W: D with the plain sum, the embedding's width with "what_and_where"."""
        return self.depth if self.policy.encoder == "sum" else self.policy.advanced.embedding_size

    @property
    def projected(self) -> int:
        """P."""
        return min(self.policy.advanced.projection_size, self.depth)

    @property
    def looks(self) -> int:
        """Slices in the inputs of N episodes: all cells of frame 1, and m cells of each later frame."""
        return self.episodes * (self.cells + (self.frames - 1) * self.glimpses)


@dataclass(frozen=True)
class Cost:
    """Arithmetic and memory traffic of a part."""

    flops: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, factor: float) -> Cost:
        """Return this cost times a factor."""
        return Cost(self.flops * factor, self.bytes * factor)


def linear(rows: int, inputs: int, outputs: int) -> Cost:
    """Return the cost of (rows, inputs) @ (inputs, outputs): 2 * rows * inputs * outputs FLOPs.

    Each of the two products of the backward pass, for the inputs' gradient and for the weights', costs the same.
    """
    return Cost(2.0 * rows * inputs * outputs, FLOAT * (rows * inputs + inputs * outputs + rows * outputs))


def slice_encoder(sizes: Sizes) -> Cost:
    """Return the cost of the slice encoder: 2 * looks * D * W FLOPs with "what_and_where".

    The plain sum is part of gathering.
    """
    return Cost() if sizes.policy.encoder == "sum" else linear(sizes.looks, sizes.depth, sizes.width)


def lstm(sizes: Sizes, *, calls: Literal["sequence", "frames"]) -> Cost:
    """Return the cost of the LSTM: 2 * N * T * 4H * (inputs + H) FLOPs for each layer.

    "sequence" multiplies all frames by the input weights at once; "frames", as in a rollout, takes one frame at a time
    and reads them T times. The recurrent weights are read T times in both cases, since each state needs the last one.
    """
    hidden, total = sizes.policy.hidden_size, Cost()
    for layer in range(sizes.policy.layers):
        inputs = hidden if layer else sizes.width
        recurrent = linear(sizes.episodes, hidden, 4 * hidden).times(sizes.frames)
        if calls == "sequence":
            total += linear(sizes.episodes * sizes.frames, inputs, 4 * hidden) + recurrent
        else:
            total += linear(sizes.episodes, inputs, 4 * hidden).times(sizes.frames) + recurrent
    return total


def class_head(sizes: Sizes, *, frames: int) -> Cost:
    """Return the cost of the class head: 2 * N * frames * (H * (H + W with skip) + H * outputs) FLOPs.

    The linear classifier adds 2 * N * frames * W * outputs.
    """
    hidden, rows, advanced = sizes.policy.hidden_size, sizes.episodes * frames, sizes.policy.advanced
    network = linear(rows, hidden + sizes.width * advanced.skip, hidden) + linear(rows, hidden, sizes.outputs)
    return network + linear(rows, sizes.width, sizes.outputs) if advanced.linear_finish else network


def location_head(sizes: Sizes, *, frames: int) -> tuple[Cost, Cost]:
    """Return the costs of the convolution, 2 * N * frames * K*K * 9 * (P + 2) * S FLOPs, and of the rest.

    The rest is the state's part, 2 * N * frames * H * S, and the scores, 2 * N * frames * K*K * S. They are separate,
    since the input of the convolution needs no gradient.
    """
    rows, hidden, scorer = sizes.episodes * frames, sizes.policy.hidden_size, sizes.policy.advanced.scorer_size
    seen = sizes.projected + 2
    convolution = Cost(
        2.0 * rows * sizes.cells * 9 * seen * scorer,
        FLOAT * (rows * sizes.cells * (seen + scorer) + 9 * seen * scorer),
    )
    scores = linear(rows * sizes.cells, scorer, 1)
    return convolution, scores + linear(rows, hidden, scorer)


def policy_step(sizes: Sizes) -> Cost:
    """Return the cost of T steps of the policy."""
    heads = (class_head(sizes, frames=1), *location_head(sizes, frames=1))
    acting = slice_encoder(sizes) + lstm(sizes, calls="frames")
    for head in heads:
        acting += head.times(sizes.frames)
    return acting


def projection(sizes: Sizes) -> Cost:
    """Return the cost of the projection: 2 * rows * D * P FLOPs for the slices in view.

    Slices that rollouts of a clip share count once. Slices that are no wider than P are not projected.
    """
    if sizes.projected == sizes.depth:
        return Cost()
    rows = sizes.clips * sizes.frames * sizes.cells
    if sizes.in_view == "glimpsed":
        rows = min(rows, sizes.looks)
    return linear(rows, sizes.depth, sizes.projected)


def rollout_costs(sizes: Sizes) -> dict[str, Cost]:
    """Return the costs of the parts of a rollout."""
    episodes, frames, cells, depth = sizes.episodes, sizes.frames, sizes.cells, sizes.depth
    chosen = episodes * (frames - 1) * sizes.glimpses
    is_sum = sizes.policy.encoder == "sum"
    kept = episodes * frames * depth if is_sum else sizes.looks * depth
    shown = sizes.clips * cells * frames if sizes.in_view == "cube" else sizes.clips * cells + chosen
    gathering = Cost(2.0 * sizes.looks * depth if is_sum else 0.0, FLOAT * (sizes.looks * depth + kept))
    views = episodes * (frames - 1) * cells * (sizes.projected + 2)
    return {
        "environment": Cost(0.0, episodes * frames * (8 * (sizes.glimpses + 1) + sizes.outputs)),
        "reading features": Cost(0.0, shown * depth * (sizes.stored_bytes + FLOAT)),
        "gathering, projecting": gathering + projection(sizes),
        "policy step": policy_step(sizes),
        "drawing cells": Cost(0.0, FLOAT * 3 * episodes * frames * cells),
        "conversion, records": Cost(0.0, FLOAT * 2 * (kept + views)),
    }


def update_forward(sizes: Sizes) -> Cost:
    """Return the cost of the update's forward pass: all frames in one batch, one call of each LSTM layer."""
    total = slice_encoder(sizes) + lstm(sizes, calls="sequence") + class_head(sizes, frames=sizes.frames)
    for part in location_head(sizes, frames=sizes.frames - 1):
        total += part
    return total


def update_costs(sizes: Sizes) -> dict[str, Cost]:
    """Return the costs of the parts of an update, forward and backward.

    The backward pass costs twice the forward pass, or once if the inputs need no gradient: slices, the view of the
    location logits, the LSTM's states before frame 1, and the first layer's inputs with the plain sum and no frame
    embedding. The optimiser reads and writes ten numbers for each parameter: the gradient for its norm, and twice for
    clipping; for Adam the weight, the gradient and two moments, and it writes three of these.
    """
    rows, frames = sizes.episodes * sizes.frames, sizes.frames
    convolution, scores = location_head(sizes, frames=frames - 1)
    hidden = sizes.policy.hidden_size
    unneeded = linear(sizes.episodes, hidden, 4 * hidden).times(sizes.policy.layers)
    if sizes.policy.encoder == "sum" and not sizes.policy.advanced.frame_embedding:
        unneeded += linear(rows, sizes.width, 4 * hidden)
    drawn = sizes.episodes * (frames - 1) * sizes.cells * sizes.glimpses
    return {
        "slice encoder": slice_encoder(sizes).times(2),
        "LSTM": lstm(sizes, calls="sequence").times(3) + unneeded.times(-1),
        "class head": class_head(sizes, frames=frames).times(3),
        "location head": convolution.times(2) + scores.times(3),
        "losses": Cost(0.0, FLOAT * 4 * (drawn + rows * sizes.outputs)),
        "optimiser": Cost(0.0, FLOAT * 10 * sizes.parameters),
    }
