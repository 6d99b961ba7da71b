"""The network of the paper: slice encoder, memory, and heads for the next cells, the class and the value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parallel.noise import Noise
from .config import PolicyConfig, SliceWeights
from .episodes import Looks, Views


@dataclass(frozen=True, kw_only=True)
class InputShape:
    """Sizes that the network has to fit.

    Attributes:
        grid_size: K.
        depth: D.
        outputs: classes, "no prediction" included.
        frames: T.
        values: baselines of a state's choices that are learned; 0 without a value head.
        starts_from_mean: whether the memory begins in a state made from the mean of all slices of a clip.
    """

    grid_size: int
    depth: int
    outputs: int
    frames: int
    values: int = 0
    starts_from_mean: bool = False


@dataclass(frozen=True)
class DropoutMasks:
    """Dropout of N episodes, drawn once, so that the update sees the network that acted."""

    inputs: list[Tensor]  # for each LSTM layer (N, width)
    state: Tensor  # (N, H), on the LSTM's state in the class head; (N, 1) ones if no input skips to it
    head: Tensor  # (N, H)
    scorer: Tensor  # (N, S)

    def repeated(self, times: int) -> DropoutMasks:
        """Return the masks of N * times episodes, each of these `times` times in a row."""
        return self._each(lambda mask: mask.repeat_interleave(times, 0))

    def rows(self, rows: slice) -> DropoutMasks:
        """Return the masks of some of the episodes."""
        return self._each(lambda mask: mask[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> DropoutMasks:
        inputs = [change(mask) for mask in self.inputs]
        return DropoutMasks(inputs, change(self.state), change(self.head), change(self.scorer))


@dataclass
class RecurrentState:
    """Memory of N episodes between two frames."""

    layers: list[tuple[Tensor, Tensor]]  # (h, c) of each layer, (1, N, H)
    frame: int = 0

    @property
    def output(self) -> Tensor:
        """(N, H): the last layer's output for the frame."""
        return self.layers[-1][0][0]


class SliceEncoder(nn.Module):
    """Attended input X' of a frame (eq. 3): a weighted sum of slices, or of their what-and-where embeddings."""

    def __init__(self, config: PolicyConfig, cells: int, depth: int) -> None:
        super().__init__()
        self.is_sum, self.unit_input = config.encoder == "sum", config.advanced.unit_input
        self.width = depth if self.is_sum else config.advanced.embedding_size
        if not self.is_sum:
            self.what = nn.Linear(depth, self.width)
            self.where = nn.Embedding(cells, self.width)

    def attend(self, slices: Tensor, cells: Tensor, weights: Tensor) -> Looks:
        """Look at (N, m, D) `slices` at (N, m) `cells` with the weights l of eq. 3, (N, m)."""
        content = torch.bmm(weights[:, None], slices)[:, 0] if self.is_sum else slices
        return Looks(content, cells, weights)

    def forward(self, looks: Looks, *, soft: bool = False) -> Tensor:
        """Return X', (N, ..., width); `soft` weights count as the number of looks that they spread over."""
        if self.is_sum:
            attended = looks.content
        else:
            embedded = F.relu(self.what(looks.content) + self.where(looks.cells))
            attended = (looks.weights[..., None] * embedded).sum(-2)
            # Few looks and many give inputs of the same scale.
            spread = 1 / looks.weights.square().sum(-1) if soft else (looks.weights > 0).sum(-1)
            attended = attended * spread.sqrt()[..., None]
        return F.normalize(attended, dim=-1) * math.sqrt(self.width) if self.unit_input else attended


class Memory(nn.Module):
    """The LSTM layers, with a learned vector for the frame's number added to their input."""

    def __init__(self, config: PolicyConfig, width: int, shape: InputShape, projected: int) -> None:
        super().__init__()
        self.hidden_size = hidden = config.hidden_size
        self.when = nn.Embedding(shape.frames, width) if config.advanced.frame_embedding else None
        sizes = [width] + [hidden] * (config.layers - 1)
        self.lstm = nn.ModuleList([nn.LSTM(size, hidden, batch_first=True) for size in sizes])
        self.begin = nn.Linear(projected, 2 * config.layers * hidden) if shape.starts_from_mean else None

    def initial_state(self, episodes: int) -> RecurrentState:
        """Return the state before frame 1: zeros."""
        zeros = next(self.parameters()).new_zeros(1, episodes, self.hidden_size)
        return RecurrentState([(zeros, zeros) for _ in self.lstm])

    def state_of_mean(self, mean: Tensor) -> RecurrentState:
        """Return the state before frame 1 made from the (N, P) projected means of clips."""
        assert self.begin is not None
        values = torch.tanh(self.begin(mean).float()).reshape(len(mean), len(self.lstm), 2, -1)
        return RecurrentState([(state[None, :, 0], state[None, :, 1]) for state in values.unbind(1)])

    def step(
        self, state: RecurrentState, attended: Tensor, masks: DropoutMasks | None
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Advance one frame with its (N, width) attended input.

        Returns:
            the output (N, 1, H), the input (N, 1, width), and the state after the frame.
        """
        inputs = self._inputs(attended[:, None], state.frame, masks)
        hidden, layers = self._recur(inputs, state.layers, masks)
        return hidden, inputs, RecurrentState(layers, state.frame + 1)

    def forward(self, attended: Tensor, masks: DropoutMasks | None) -> tuple[Tensor, Tensor]:
        """Run over whole episodes in one call of each layer: (N, T, width) -> outputs (N, T, H), inputs."""
        inputs = self._inputs(attended, 0, masks)
        return self._recur(inputs, None, masks)[0], inputs

    def _inputs(self, attended: Tensor, first: int, masks: DropoutMasks | None) -> Tensor:
        if self.when is not None:
            attended = attended + self.when(torch.arange(first, first + attended.shape[1], device=attended.device))
        return attended if masks is None else attended * masks.inputs[0][:, None]

    def _recur(
        self, inputs: Tensor, layers: list[tuple[Tensor, Tensor]] | None, masks: DropoutMasks | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        after = []
        for index, lstm in enumerate(self.lstm):
            if masks is not None and index:
                inputs = inputs * masks.inputs[index][:, None]
            assert isinstance(lstm, nn.LSTM)
            inputs, state = _run_layer(lstm, inputs, None if layers is None else layers[index])
            after.append(state)
        return inputs, after


def _run_layer(
    lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one layer over (N, T, width), by its cell if T is 1: the fused call repacks its weights every time."""
    if state is None or inputs.shape[1] > 1:
        return lstm(inputs, state)  # type: ignore[no-any-return]
    hidden, cell = torch.lstm_cell(inputs[:, 0], (state[0][0], state[1][0]), *lstm.parameters())
    return hidden[:, None], (hidden[None], cell[None])


class LocationHead(nn.Module):
    """Location logits of the next frame, from the visible slices of this one and the LSTM's state.

    The logit of cell i for frame n + 1 is u . tanh(Wc * v_n + Wd h_n + e)_i. v_n holds the visible slices of frame n,
    whether each cell was seen, and how often; Wc is a 3 x 3 convolution over the grid, so that neighbours of seen cells
    can be chosen. A learned repulsion times v / (1 + v), with v the earlier visits of the cell, is subtracted.

    With the glimpse order "sequential" the j-th cell is drawn by its own logits, with Wq (x_1 + ... + x_j-1) added
    within the tanh: the projected slices of frame n at the cells drawn before it, zero if they were not seen.
    """

    components: Tensor  # (D, P)

    def __init__(self, config: PolicyConfig, shape: InputShape) -> None:
        super().__init__()
        advanced, cells = config.advanced, shape.grid_size**2
        self.grid_size, self.uses_state = shape.grid_size, advanced.hidden_in_scorer
        self.is_sequential = advanced.glimpse_order == "sequential"
        projected = min(advanced.projection_size, shape.depth)
        self.register_buffer("components", torch.eye(shape.depth, projected))
        self.visible = nn.Conv2d(projected + 2, advanced.scorer_size, 3, padding=1)
        self.state = nn.Linear(config.hidden_size, advanced.scorer_size, bias=False)
        self.place = nn.Parameter(torch.zeros(cells, advanced.scorer_size))
        self.score = nn.Linear(advanced.scorer_size, 1, bias=False)
        self.repulsion = nn.Parameter(torch.tensor(advanced.repulsion))
        if self.is_sequential:
            # It draws no random numbers, so all other weights start as those of the "joint" order.
            self.query = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.Linear, projected, advanced.scorer_size, bias=False
            )
            nn.init.zeros_(self.query.weight)

    def fit_components(self, slices: Tensor) -> None:
        """Set the projection to the principal components of (n, D) slices, scaled together to unit variance.

        Slices that are no wider than the projection keep their channels.
        """
        depth, projected = self.components.shape
        if depth <= projected:
            return
        centred = slices - slices.mean(0)
        _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
        components = directions[:, -projected:].flip(1)
        self.components.copy_(components / (centred @ components).std())

    def project(self, cubes: Tensor) -> Tensor:
        """Return (N, K*K, P), the visible content of (N, K*K, D) cubes."""
        depth, projected = self.components.shape
        return cubes if depth == projected else F.linear(cubes, self.components.T)

    def forward(self, hidden: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Score the cells of the next frame: hidden (N, T, H) and views of T frames -> (N, T, K*K)."""
        return self._score(self._activations(hidden, views), views, masks)

    def sequence_logits(self, hidden: Tensor, views: Views, cells: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Score the cells of the next frame for each draw of a known sequence.

        Args:
            hidden: (N, T, H).
            views: of T frames.
            cells: (N, T, m) in the order in which they were drawn.
            masks: of the episodes.

        Returns:
            (N, T, m, K*K): the logits that each cell was drawn by; cells drawn before it are not yet left out.
        """
        moves = self._moves(views, cells)
        before = F.pad(moves[:, :, :-1].cumsum(2), (0, 0, 1, 0))  # (N, T, m, S): nothing moves the first
        inner = self._activations(hidden, views)
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
            draw: takes (N, K*K) logits, -inf for cells drawn before, and returns (N, 1) cells.

        Returns:
            (N, m) int64.
        """
        views = view.as_one_frame()
        inner = self._activations(hidden[:, None], views)
        drawn = torch.zeros_like(view.visits, dtype=torch.bool)
        cells: list[Tensor] = []
        for _ in range(glimpses):
            logits = self._score(inner, views, masks)[:, 0].float()
            cells.append(draw(logits.masked_fill(drawn, -torch.inf)))
            drawn = drawn.scatter(1, cells[-1], True)
            inner = inner + self._moves(views, cells[-1][:, None])
        return torch.cat(cells, 1)

    def _moves(self, views: Views, cells: Tensor) -> Tensor:
        """Return (N, T, m, S): the change of the query by the visible content at (N, T, m) cells."""
        places = cells[..., None].expand(*cells.shape, views.content.shape[-1])
        return self.query(views.content.gather(2, places))  # type: ignore[no-any-return]

    def _activations(self, hidden: Tensor, views: Views) -> Tensor:
        """Return (N, T, K*K, S): the argument of the tanh."""
        episodes, frames = hidden.shape[:2]
        size = self.grid_size
        grid = torch.cat([views.content, views.seen[..., None], _familiarity(views)[..., None]], -1)
        grid = grid.flatten(0, 1).transpose(1, 2).reshape(episodes * frames, -1, size, size)  # (N*T, P + 2, K, K)
        inner: Tensor = self.visible(grid).flatten(2).transpose(1, 2).reshape(episodes, frames, size**2, -1)
        inner = inner + self.place
        return inner + self.state(hidden)[:, :, None] if self.uses_state else inner

    def _score(self, inner: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Return (N, T, K*K) logits for the argument of their tanh."""
        inner = torch.tanh(inner)
        if masks is not None:
            inner = inner * masks.scorer[:, None, None]
        scores: Tensor = self.score(inner)[..., 0]
        return scores - self.repulsion * _familiarity(views)


def _familiarity(views: Views) -> Tensor:
    """Return (N, T, K*K) in [0, 1): 0 for a cell that was never chosen."""
    return views.visits / (1 + views.visits)


class ClassHead(nn.Module):
    """Class logits (eq. 2): a tanh layer, then a linear one."""

    def __init__(self, config: PolicyConfig, width: int, outputs: int) -> None:
        super().__init__()
        self.skips = config.advanced.skip
        self.hidden = nn.Linear(config.hidden_size + width * self.skips, config.hidden_size)
        self.classes = nn.Linear(config.hidden_size, outputs)

    def forward(self, hidden: Tensor, inputs: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Score the classes: states (N, T, H) and the LSTM's inputs (N, T, width) -> (N, T, outputs)."""
        if self.skips:
            kept = hidden if masks is None else hidden * masks.state[:, None]
            hidden = torch.cat([kept, inputs], -1)
        inner = torch.tanh(self.hidden(hidden))
        return self.classes(inner if masks is None else inner * masks.head[:, None])  # type: ignore[no-any-return]


class ValueHead(nn.Module):
    """Learned baselines of the choices at a state; their gradient does not reach the state."""

    def __init__(self, hidden_size: int, values: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, values)

    def forward(self, states: Tensor) -> Tensor:
        """Return (N, T, values) for the LSTM's (N, T, H) states."""
        return self.linear(states.detach().float())  # type: ignore[no-any-return]


class GlimpsePolicy(nn.Module):
    """Eqs. 1-3 of the paper, with location logits that score visible content."""

    def __init__(self, config: PolicyConfig, shape: InputShape) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        self.encoder = SliceEncoder(config, shape.grid_size**2, shape.depth)
        projected = min(config.advanced.projection_size, shape.depth)
        self.memory = Memory(config, self.encoder.width, shape, projected)
        self.class_head = ClassHead(config, self.encoder.width, shape.outputs)
        self.location_head = LocationHead(config, shape)
        for embedding in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=0.1)
        self.value_head = ValueHead(config.hidden_size, shape.values) if shape.values else None

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.location_head.place.device

    def draw_masks(self, episodes: int, noise: Noise) -> DropoutMasks:
        """Draw the dropout of `episodes` episodes."""
        config, hidden = self.config, self.config.hidden_size

        def mask(width: int, dropped: float) -> Tensor:
            return (noise.uniform((episodes, width)) >= dropped) / (1 - dropped)

        inputs = [mask(self.encoder.width, config.advanced.input_dropout)]
        inputs += [mask(hidden, config.dropout) for _ in range(config.layers - 1)]
        return DropoutMasks(
            inputs,
            mask(hidden, config.dropout) if self.class_head.skips else torch.ones_like(inputs[0][:, :1]),
            mask(hidden, config.dropout),
            mask(config.advanced.scorer_size, config.advanced.scorer_dropout),
        )

    def autocast(self) -> torch.autocast:
        """Return the context in which the network's products have the configured precision.

        `step` and `forward` enter it themselves. Callers that step repeatedly should enter it once around the loop,
        since weights are converted once in each outermost context.
        """
        enabled = self.config.advanced.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def step(
        self, state: RecurrentState, looks: Looks, view: Views | None, masks: DropoutMasks | None
    ) -> tuple[Tensor, Tensor, RecurrentState]:
        """Advance one frame.

        Returns:
            class logits (N, outputs), location logits of the next frame (N, K*K), and the state after the frame. If
            cells are drawn in sequence, the location logits are those of the first one. Without a view they are zeros.
        """
        with self.autocast():
            hidden, inputs, state = self.memory.step(state, self.encoder(looks), masks)
            class_logits = self.class_head(hidden, inputs, masks)
            if view is None:
                cell_logits = self._zero_logits(hidden)
            else:
                cell_logits = self.location_head(hidden, view.as_one_frame(), masks)
        return class_logits[:, 0].float(), cell_logits[:, 0].float(), state

    def forward(
        self, first: Looks, rest: Looks, views: Views | None, masks: DropoutMasks | None, *, detach_scorer: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Play whole episodes with known actions, in one call of each LSTM layer.

        Args:
            first: looks of frame 1, without a frame axis.
            rest: looks of frames 2..T, (N, T - 1, ...).
            views: of frames 1..T-1; None if the location logits chose nothing. They are zeros then.
            masks: dropout that the episodes were played with.
            detach_scorer: keep the gradient of the location logits out of the LSTM.

        Returns:
            class logits (N, T, outputs) and the location logits (N, T - 1, K*K) of the choices at frames 1..T-1;
            if cells are drawn in sequence (N, T - 1, m, K*K), the logits that each cell in `rest` was drawn by.
        """
        with self.autocast():
            attended = torch.cat([self.encoder(first)[:, None], self.encoder(rest)], 1)
            hidden, inputs = self.memory(attended, masks)
            before = hidden[:, :-1].detach() if detach_scorer else hidden[:, :-1]
            class_logits = self.class_head(hidden, inputs, masks)
            if views is None:
                cell_logits = self._zero_logits(before)
            elif self.location_head.is_sequential:
                cell_logits = self.location_head.sequence_logits(before, views, rest.cells, masks)
            else:
                cell_logits = self.location_head(before, views, masks)
        return class_logits.float(), cell_logits.float()

    def _zero_logits(self, hidden: Tensor) -> Tensor:
        """Return (N, T, K*K) zeros for (N, T, H) states."""
        return hidden.new_zeros(*hidden.shape[:2], self.shape.grid_size**2)


def slice_weights(cell_logits: Tensor, cells: Tensor, kind: SliceWeights) -> Tensor:
    """Return l of eq. 3 over the chosen cells, (N, m), summing to 1; the update treats it as a constant.

    If cells are drawn in sequence, the (N, K*K) logits are those of the first draw: logits of different draws cannot be
    compared.
    """
    if kind == "uniform":
        return torch.full(cells.shape, 1 / cells.shape[1], device=cells.device)
    return cell_logits.gather(1, cells).softmax(1)
