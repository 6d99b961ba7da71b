"""The recurrent glimpse policy: what it sees goes through an LSTM, which says the class and where to look next."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parallel.ranks import WHOLE, Share, uniform

Encoder = Literal["sum", "what_and_where"]
GlimpseOrder = Literal["joint", "sequential"]
Precision = Literal["float32", "bfloat16"]
Start = Literal["zeros", "mean"]
SliceWeights = Literal["uniform", "softmax"]


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Sizes and options of the network."""

    encoder: Encoder = "what_and_where"
    """"sum": the paper's weighted sum of slices (eq. 3); "what_and_where": each slice embedded with its cell first."""
    slice_weights: SliceWeights = "uniform"
    """l of eq. 3 over the learned policy's m cells: 1/m each, or the softmax of their location logits."""
    embedding_size: int = 64
    """Width of the what-and-where embedding; the plain sum keeps the D of the slices."""
    unit_input: bool = False
    """Scale every attended input to the length sqrt(width): the features of real frames differ widely in strength."""
    skip: bool = False
    """Let the class head see the attended input beside the LSTM's state: what one frame tells needs no memory, and a
    deep LSTM on few clips learns to tell it worse than a linear layer does."""
    frame_embedding: bool = True
    """Add a learned vector for the frame's number to the LSTM's input."""
    layers: int = 1
    """Layers of the LSTM."""
    hidden_size: int = 128
    """Units in each layer of the LSTM and in the tanh layer before the classes."""
    dropout: float = 0.0
    """Share of units dropped between LSTM layers and in the class head, one mask for a whole episode."""
    input_dropout: float = 0.0
    """Share of the LSTM's inputs dropped, one mask for a whole episode."""
    projection_size: int = 32
    """Principal components of a slice that the location logits see; slices no wider than this are seen as they are."""
    scorer_size: int = 32
    """Hidden units of the location logits."""
    scorer_dropout: float = 0.0
    """Share of the location logits' hidden units dropped."""
    hidden_in_scorer: bool = True
    """Let the LSTM's state speak in the location logits, beside what is visible."""

    repulsion: float = 0.0
    """How strongly the location logits avoid cells that were chosen before, at the start; learned from there."""
    glimpse_order: GlimpseOrder = "joint"
    """Of the m cells that are drawn at a frame: "joint": all by the same logits, without replacement; "sequential": the
    paper's jumps, each drawn cell's visible slice moving the query that the next one is drawn by."""
    start: Start = "zeros"
    """Of the LSTM's state: zeros, or what the mean of all slices of a clip makes of it; soft attention takes that."""
    precision: Precision = "float32"
    """Of the network's products, acting and learning; weights, losses and the optimiser stay float32."""

    def __post_init__(self) -> None:
        for name in ("embedding_size", "layers", "hidden_size", "projection_size", "scorer_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"policy.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("dropout", "input_dropout", "scorer_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"policy.{name} must lie in [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """What the network must fit: K, D, the classes it can say ("no prediction" included), T, and how many values of a
    state are the baselines of its choices.
    """

    grid_size: int
    depth: int
    outputs: int
    frames: int
    values: int = 0


@dataclass(frozen=True)
class DropoutMasks:
    """What is dropped in each of N episodes, drawn once, so that the update sees the network that acted."""

    inputs: list[Tensor]  # for each LSTM layer (N, width)
    state: Tensor  # (N, H), of the LSTM's state on its way into the class head; (N, 1) ones where no input skips to it
    head: Tensor  # (N, H)
    scorer: Tensor  # (N, S)

    def repeated(self, times: int) -> DropoutMasks:
        """Return the masks of N * times episodes, each of these `times` times in a row."""
        return self._each(lambda mask: mask.repeat_interleave(times, 0))

    def part(self, rows: slice) -> DropoutMasks:
        """Return the masks of some of the episodes."""
        return self._each(lambda mask: mask[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> DropoutMasks:
        inputs = [change(mask) for mask in self.inputs]
        return DropoutMasks(inputs, change(self.state), change(self.head), change(self.scorer))


@dataclass
class RecurrentState:
    """What N episodes remember from frame to frame."""

    layers: list[tuple[Tensor, Tensor]]  # (h, c) of each layer, (1, N, H)
    frame: int = 0

    @property
    def output(self) -> Tensor:
        """(N, H): what the last layer says of the frame."""
        return self.layers[-1][0][0]


class Looks(NamedTuple):
    """What was looked at in one frame or in a run of them (a further axis before m).

    `content` is the weighted sum of the slices, (N, ..., D), for the "sum" encoder, and the slices themselves,
    (N, ..., m, D), for "what_and_where": what can be reduced without parameters is reduced before it is kept.
    """

    content: Tensor
    cells: Tensor  # (N, ..., m)
    weights: Tensor  # (N, ..., m)


class Views(NamedTuple):
    """What the location logits see of one frame or of a run of them."""

    content: Tensor  # (N, ..., K*K, P)
    seen: Tensor  # (N, ..., K*K) 0 or 1: seen in this frame
    visits: Tensor  # (N, ..., K*K): how often each cell was chosen up to this frame


class GlimpsePolicy(nn.Module):
    """Eqs. 1-3 of the paper with location logits that score what is visible.

    The location logit of cell i for frame n + 1 is u . tanh(Wc * v_n + Wd h_n + e)_i, where v_n holds the visible
    slices of frame n, whether each cell was seen, and how often, and Wc is a 3 x 3 convolution over the grid, so that
    neighbours of what was seen can be chosen. A learned repulsion times v / (1 + v), v the earlier visits of the cell,
    is taken off.

    With the glimpse order "sequential" the j-th of the cells is drawn by logits of its own, with Wq (x_1 + ... + x_j-1)
    added within the tanh: the projected slices of frame n at the cells drawn before it, zero where they were not seen.
    """

    components: Tensor  # (D, P)

    def __init__(self, config: PolicyConfig, shape: InputShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        cells, depth, hidden = shape.grid_size**2, shape.depth, config.hidden_size
        projected = min(config.projection_size, depth)
        self.register_buffer("components", torch.eye(depth, projected))
        width = depth
        if config.encoder == "what_and_where":
            width = config.embedding_size
            self.what = nn.Linear(depth, width)
            self.where = nn.Embedding(cells, width)
        self.input_size = width
        if config.frame_embedding:
            self.when = nn.Embedding(shape.frames, width)
        sizes = [width] + [hidden] * (config.layers - 1)
        self.lstm = nn.ModuleList([nn.LSTM(size, hidden, batch_first=True) for size in sizes])
        self.head = nn.Linear(hidden + width * config.skip, hidden)
        self.classes = nn.Linear(hidden, shape.outputs)
        self.visible = nn.Conv2d(projected + 2, config.scorer_size, 3, padding=1)
        self.state = nn.Linear(hidden, config.scorer_size, bias=False)
        self.place = nn.Parameter(torch.zeros(cells, config.scorer_size))
        self.score = nn.Linear(config.scorer_size, 1, bias=False)
        self.repulsion = nn.Parameter(torch.tensor(config.repulsion))
        if config.start == "mean":
            self.begin = nn.Linear(projected, 2 * config.layers * hidden)
        for embedding in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=0.1)
        # What only some ask for is drawn last, so that the rest begins as it does without.
        if config.glimpse_order == "sequential":
            self.query = nn.Linear(projected, config.scorer_size, bias=False)
            nn.init.zeros_(self.query.weight)
        if shape.values:
            self.value = nn.Linear(hidden, shape.values)

    def fit_components(self, slices: Tensor) -> None:
        """Set the projection that the location logits see to the principal components of (n, D) slices, scaled to unit
        variance together; without a call, or where slices are narrow, the first `projection_size` channels are seen.
        """
        if slices.shape[1] <= self.config.projection_size:
            return
        centred = slices - slices.mean(0)
        _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
        components = directions[:, -self.config.projection_size :].flip(1)
        self.components.copy_(components / (centred @ components).std())

    def scorer_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that nothing but the location logits use."""
        modules = [self.visible, self.state, self.score]
        if self.config.glimpse_order == "sequential":
            modules.append(self.query)
        return [self.place, self.repulsion, *(parameter for module in modules for parameter in module.parameters())]

    def value_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that nothing but the values use."""
        return list(self.value.parameters()) if self.shape.values else []

    def values(self, states: Tensor) -> Tensor:
        """Return (N, T, values) of the LSTM's (N, T, H) states, which their gradient does not reach."""
        return self.value(states.detach().float())  # type: ignore[no-any-return]

    def draw_masks(self, episodes: int, generator: torch.Generator, share: Share = WHOLE) -> DropoutMasks:
        """Draw the dropout of `episodes` episodes; `share` says which of a larger batch's they are."""
        config = self.config

        def mask(width: int, dropped: float) -> Tensor:
            return (uniform((episodes, width), generator, share) >= dropped) / (1 - dropped)

        inputs = [mask(self.input_size, config.input_dropout)]
        inputs += [mask(config.hidden_size, config.dropout) for _ in range(config.layers - 1)]
        return DropoutMasks(
            inputs,
            mask(config.hidden_size, config.dropout) if config.skip else torch.ones_like(inputs[0][:, :1]),
            mask(config.hidden_size, config.dropout),
            mask(config.scorer_size, config.scorer_dropout),
        )

    def autocast(self) -> torch.autocast:
        """Return the context in which the network's products have the configured precision.

        `step` and `forward` enter it themselves; who calls them often enters it around all calls that need the same
        kind of gradient, since weights are converted once in each outermost context.
        """
        enabled = self.config.precision == "bfloat16"
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=enabled)

    def initial_state(self, episodes: int) -> RecurrentState:
        """Return the state before frame 1."""
        zeros = self.place.new_zeros(1, episodes, self.config.hidden_size)
        return RecurrentState([(zeros, zeros) for _ in self.lstm])

    def state_of_mean(self, mean: Tensor) -> RecurrentState:
        """Return the state before frame 1 that the (N, P) projected means of clips set."""
        values = torch.tanh(self.begin(mean).float()).reshape(len(mean), len(self.lstm), 2, -1)
        return RecurrentState([(state[None, :, 0], state[None, :, 1]) for state in values.unbind(1)])

    def attend(self, slices: Tensor, cells: Tensor, weights: Tensor) -> Looks:
        """Look at (N, m, D) `slices`, which lie at (N, m) `cells`; `weights` are l of eq. 3, (N, m)."""
        content = torch.bmm(weights[:, None], slices)[:, 0] if self.config.encoder == "sum" else slices
        return Looks(content, cells, weights)

    def project(self, cubes: Tensor) -> Tensor:
        """Return (N, K*K, P): what the location logits see of (N, K*K, D) cubes."""
        depth, projected = self.components.shape
        return cubes if depth == projected else F.linear(cubes, self.components.T)

    def encode(self, looks: Looks, *, soft: bool = False) -> Tensor:
        """Return the attended input X', (N, ..., width); `soft` weights count as many looks as they spread over."""
        if self.config.encoder == "sum":
            attended = looks.content
        else:
            embedded = F.relu(self.what(looks.content) + self.where(looks.cells))
            attended = (looks.weights[..., None] * embedded).sum(-2)
            # Few looks and many come out alike in scale.
            spread = 1 / looks.weights.square().sum(-1) if soft else (looks.weights > 0).sum(-1)
            attended = attended * spread.sqrt()[..., None]
        return F.normalize(attended, dim=-1) * math.sqrt(self.input_size) if self.config.unit_input else attended

    def step(
        self, state: RecurrentState, looks: Looks, view: Views | None, masks: DropoutMasks | None
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Advance one frame.

        Returns:
            class logits (N, outputs), location logits of the next frame (N, K*K), those of the first cell to be drawn
            where cells are drawn in sequence, and the state after the frame. Without a view nothing is to be chosen by
            the location logits, and they are zeros.
        """
        with self.autocast():
            hidden, inputs, state = self.advance(state, self.encode(looks), masks)
            class_logits = self.class_logits(hidden, inputs, masks)
            if view is None:
                cell_logits = self._indifferent(hidden)
            else:
                cell_logits = self.cell_logits(hidden, Views(*(part[:, None] for part in view)), masks)
        return class_logits[:, 0].float(), cell_logits[:, 0].float(), state

    def advance(
        self, state: RecurrentState, attended: Tensor, masks: DropoutMasks | None
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Let the LSTM see the (N, width) attended input of a frame.

        Returns:
            its output (N, 1, H), its input (N, 1, width), and the state after the frame.
        """
        inputs = self._drop(self._with_frame_number(attended[:, None], state.frame), masks)
        hidden, layers = self._recur(inputs, state.layers, masks)
        return hidden, inputs, RecurrentState(layers, state.frame + 1)

    def forward(
        self, first: Looks, rest: Looks, views: Views | None, masks: DropoutMasks | None, *, detach_scorer: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Play whole episodes whose actions are known, in one call of each LSTM layer.

        Args:
            first: the looks of frame 1, without a frame axis.
            rest: the looks of frames 2..T, (N, T - 1, ...).
            views: of frames 1..T-1; None where nothing was chosen by the location logits, which are zeros then.
            masks: the dropout that the episodes were played with.
            detach_scorer: keep the gradient of the location logits out of the LSTM.

        Returns:
            class logits (N, T, outputs) and location logits (N, T - 1, K*K), those chosen from at frames 1..T-1;
            (N, T - 1, m, K*K), those that each of the cells in `rest` was drawn by, where cells are drawn in sequence.
        """
        with self.autocast():
            inputs = torch.cat([self.encode(first)[:, None], self.encode(rest)], 1)
            inputs = self._drop(self._with_frame_number(inputs, 0), masks)
            hidden, _ = self._recur(inputs, None, masks)
            before = hidden[:, :-1].detach() if detach_scorer else hidden[:, :-1]
            class_logits = self.class_logits(hidden, inputs, masks)
            if views is None:
                cell_logits = self._indifferent(before)
            elif self.config.glimpse_order == "sequential":
                cell_logits = self.sequence_logits(before, views, rest.cells, masks)
            else:
                cell_logits = self.cell_logits(before, views, masks)
        return class_logits.float(), cell_logits.float()

    def _indifferent(self, hidden: Tensor) -> Tensor:
        """Return (N, T, K*K) zeros for (N, T, H) states."""
        return hidden.new_zeros(*hidden.shape[:2], self.shape.grid_size**2)

    def class_logits(self, hidden: Tensor, inputs: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Score the classes (eq. 2): states (N, T, H) and the LSTM's inputs (N, T, width) -> (N, T, outputs)."""
        if self.config.skip:
            kept = hidden if masks is None else hidden * masks.state[:, None]
            hidden = torch.cat([kept, inputs], -1)
        inner = torch.tanh(self.head(hidden))
        return self.classes(inner if masks is None else inner * masks.head[:, None])  # type: ignore[no-any-return]

    def cell_logits(self, hidden: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Score the cells of the next frame: hidden (N, T, H) and views of T frames -> (N, T, K*K)."""
        return self._score(self._scorer_input(hidden, views), views, masks)

    def sequence_logits(self, hidden: Tensor, views: Views, cells: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Score the cells of the next frame for each draw of a sequence that is known.

        Args:
            hidden: (N, T, H).
            views: of T frames.
            cells: (N, T, m) in the order in which they were drawn.
            masks: of the episodes.

        Returns:
            (N, T, m, K*K): the logits that each cell was drawn by; those drawn before it are not yet left out.
        """
        moves = self._moves(views, cells)
        before = F.pad(moves[:, :, :-1].cumsum(2), (0, 0, 1, 0))  # (N, T, m, S): nothing moves the first
        inner = self._scorer_input(hidden, views)
        return torch.stack([self._score(inner + query[:, :, None], views, masks) for query in before.unbind(2)], 2)

    def draw_in_sequence(
        self,
        hidden: Tensor,
        view: Views,
        masks: DropoutMasks | None,
        *,
        glimpses: int,
        draw: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Draw the cells of the next frame one after the other.

        Args:
            hidden: (N, H).
            view: of the frame.
            masks: of the episodes.
            glimpses: m.
            draw: takes (N, K*K) logits, -inf where a cell was drawn before, and returns (N, 1) cells.

        Returns:
            (N, m) int64.
        """
        views = Views(*(part[:, None] for part in view))
        inner = self._scorer_input(hidden[:, None], views)
        drawn = torch.zeros_like(view.visits, dtype=torch.bool)
        cells: list[Tensor] = []
        for _ in range(glimpses):
            logits = self._score(inner, views, masks)[:, 0].float()
            cells.append(draw(logits.masked_fill(drawn, -torch.inf)))
            drawn = drawn.scatter(1, cells[-1], True)
            inner = inner + self._moves(views, cells[-1][:, None])
        return torch.cat(cells, 1)

    def _moves(self, views: Views, cells: Tensor) -> Tensor:
        """Return (N, T, m, S): how what is visible at (N, T, m) cells moves the query."""
        places = cells[..., None].expand(*cells.shape, views.content.shape[-1])
        return self.query(views.content.gather(2, places))  # type: ignore[no-any-return]

    def _scorer_input(self, hidden: Tensor, views: Views) -> Tensor:
        """Return (N, T, K*K, S): what goes into the tanh of the location logits."""
        episodes, frames = hidden.shape[:2]
        size = self.shape.grid_size
        grid = torch.cat([views.content, views.seen[..., None], _familiarity(views)[..., None]], -1)
        grid = grid.flatten(0, 1).transpose(1, 2).reshape(episodes * frames, -1, size, size)  # (N*T, P + 2, K, K)
        inner: Tensor = (
            self.visible(grid).flatten(2).transpose(1, 2).reshape(episodes, frames, size**2, -1) + self.place
        )
        if self.config.hidden_in_scorer:
            inner = inner + self.state(hidden)[:, :, None]
        return inner

    def _score(self, inner: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Return (N, T, K*K) logits of what goes into their tanh."""
        inner = torch.tanh(inner)
        if masks is not None:
            inner = inner * masks.scorer[:, None, None]
        scores: Tensor = self.score(inner)[..., 0]
        return scores - self.repulsion * _familiarity(views)

    def _with_frame_number(self, inputs: Tensor, first: int) -> Tensor:
        if not self.config.frame_embedding:
            return inputs
        numbers = torch.arange(first, first + inputs.shape[1], device=inputs.device)
        return inputs + self.when(numbers)  # type: ignore[no-any-return]

    @staticmethod
    def _drop(inputs: Tensor, masks: DropoutMasks | None) -> Tensor:
        return inputs if masks is None else inputs * masks.inputs[0][:, None]

    def _recur(
        self, inputs: Tensor, layers: list[tuple[Tensor, Tensor]] | None, masks: DropoutMasks | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after = []
        for index, lstm in enumerate(self.lstm):
            if masks is not None and index:
                inputs = inputs * masks.inputs[index][:, None]
            assert isinstance(lstm, nn.LSTM)
            inputs, state = self._run(lstm, inputs, None if layers is None else layers[index])
            after.append(state)
        return inputs, after

    @staticmethod
    def _run(
        lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run one layer over (N, T, width), by its cell where T is 1: the fused call repacks its weights every time."""
        if state is None or inputs.shape[1] > 1:
            return lstm(inputs, state)  # type: ignore[no-any-return]
        hidden, cell = torch.lstm_cell(inputs[:, 0], (state[0][0], state[1][0]), *lstm.parameters())
        return hidden[:, None], (hidden[None], cell[None])


def _familiarity(views: Views) -> Tensor:
    """Return (N, T, K*K) in [0, 1): 0 for a cell that was never chosen."""
    return views.visits / (1 + views.visits)


def slice_weights(cell_logits: Tensor, cells: Tensor, kind: SliceWeights) -> Tensor:
    """Return l of eq. 3 over the chosen cells, (N, m), summing to 1; a constant to the update. Where cells are drawn in
    sequence the (N, K*K) logits are the first one's: those of different draws could not be compared.
    """
    if kind == "uniform":
        return torch.full(cells.shape, 1 / cells.shape[1], device=cells.device)
    return cell_logits.gather(1, cells).softmax(1)
