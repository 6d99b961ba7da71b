"""The network of the paper: slice encoder, memory, and heads for the next cells, the class and the value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..parallel.noise import Noise
from .config import PolicyConfig, SliceWeights
from .episodes import DropoutMasks, InputShape, Looks, Steps, Views
from .location import GridHead, MemoryHead


@dataclass
class RecurrentState:
    """Memory of N episodes between two frames."""

    layers: list[tuple[Tensor, Tensor]]  # (h, c) of each layer, (1, N, H)
    frame: int | Tensor = 0  # (N,) int64 if episodes are at different frames

    @property
    def output(self) -> Tensor:
        """(N, H): the last layer's output for the frame."""
        return self.layers[-1][0][0]


class InputScale(nn.Module):
    """Standardise every channel of a slice; a slice of zeros belongs to an unseen cell, and stays zero."""

    mean: Tensor  # (D,)
    std: Tensor  # (D,)

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(depth))
        self.register_buffer("std", torch.ones(depth))

    def fit(self, slices: Tensor) -> None:
        """Take mean and standard deviation of each channel of (n, D) slices; channels that hardly vary stay small."""
        self.mean.copy_(slices.mean(0))
        self.std.copy_(slices.std(0).clamp_min(1e-3 * slices.std()).clamp_min(1e-8))

    def forward(self, slices: Tensor) -> Tensor:
        """Standardise (..., D) slices."""
        return (slices - self.mean) / self.std * (slices != 0).any(-1, keepdim=True)


class SliceEncoder(nn.Module):
    """Attended input X' of a frame (eq. 3): a weighted sum of slices, or of their what-and-where embeddings."""

    def __init__(self, config: PolicyConfig, cells: int, depth: int) -> None:
        super().__init__()
        self.is_sum, self.unit_input = config.encoder == "sum", config.advanced.unit_input
        # A memory, and weights that learn, need the slices themselves.
        self.reduces = self.is_sum and config.advanced.scorer == "grid"
        self.width = depth if self.is_sum else config.advanced.embedding_size
        if not self.is_sum:
            self.what = nn.Linear(depth, self.width)
            self.where = nn.Embedding(cells, self.width)

    def attend(self, slices: Tensor, cells: Tensor, weights: Tensor) -> Looks:
        """Look at (N, m, D) `slices` at (N, m) `cells` with the weights l of eq. 3, (N, m)."""
        content = torch.bmm(weights[:, None], slices)[:, 0] if self.reduces else slices
        return Looks(content, cells, weights, torch.zeros_like(weights))

    def forward(self, looks: Looks, *, soft: bool = False) -> Tensor:
        """Return X', (N, ..., width); `soft` weights count as the number of looks that they spread over."""
        if self.reduces:
            attended = looks.content
        elif self.is_sum:
            attended = (looks.weights[..., None] * looks.content).sum(-2)
        else:
            embedded = F.relu(self.what(looks.content) + self.where(looks.cells))
            attended = (looks.weights[..., None] * embedded).sum(-2)
            # Few looks and many give inputs of the same scale.
            squares = looks.weights.square().sum(-1).clamp_min(1e-30)
            spread = looks.weights.sum(-1).square() / squares if soft else (looks.weights > 0).sum(-1)
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
        inputs = self._inputs(attended[:, None], frames_from(state.frame, 1, attended.device), masks)
        hidden, layers = self._recur(inputs, state.layers, masks)
        return hidden, inputs, RecurrentState(layers, state.frame + 1)

    def forward(
        self, attended: Tensor, masks: DropoutMasks | None, frames: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Run over whole episodes in one call of each layer: (N, T, width) -> outputs (N, T, H), inputs.

        With jumps, `frames` are the (N, S) frames of the S observed inputs.
        """
        frames = frames_from(0, attended.shape[1], attended.device) if frames is None else frames
        inputs = self._inputs(attended, frames, masks)
        return self._recur(inputs, None, masks)[0], inputs

    def _inputs(self, attended: Tensor, frames: Tensor, masks: DropoutMasks | None) -> Tensor:
        if self.when is not None:
            attended = attended + self.when(frames.clamp_max(self.when.num_embeddings - 1))
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


def frames_from(first: int | Tensor, count: int, device: torch.device) -> Tensor:
    """Return (count,) frames from `first` on, or (N, count) if episodes begin at different (N,) frames."""
    frames = torch.arange(count, device=device)
    return first[:, None] + frames if isinstance(first, Tensor) else first + frames


def _run_layer(
    lstm: nn.LSTM, inputs: Tensor, state: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one layer over (N, T, width), by its cell if T is 1: the fused call repacks its weights every time."""
    if state is None or inputs.shape[1] > 1:
        if inputs.device.type == "cpu" and torch.backends.cpu.get_cpu_capability() != "AVX512":
            # PyTorch has no fused LSTM in bfloat16 for other processors.
            with torch.autocast("cpu", enabled=False):
                state = None if state is None else (state[0].float(), state[1].float())
                return lstm(inputs.float(), state)  # type: ignore[no-any-return]
        return lstm(inputs, state)  # type: ignore[no-any-return]
    hidden, cell = torch.lstm_cell(inputs[:, 0], (state[0][0], state[1][0]), *lstm.parameters())
    return hidden[:, None], (hidden[None], cell[None])


class ClassHead(nn.Module):
    """Class logits (eq. 2): a tanh layer, then a linear one. `add_linear` adds a linear classifier of X'."""

    network_weight: Tensor
    linear_weight: Tensor  # (outputs, width)
    linear_bias: Tensor

    def __init__(self, config: PolicyConfig, width: int, outputs: int) -> None:
        super().__init__()
        self.skips = config.advanced.skip
        self.hidden = nn.Linear(config.hidden_size + width * self.skips, config.hidden_size)
        self.classes = nn.Linear(config.hidden_size, outputs)
        self.linear_finish = config.advanced.linear_finish
        if self.linear_finish:  # buffers, because they are not trained with everything else
            self.register_buffer("network_weight", torch.ones(()))
            self.register_buffer("linear_weight", torch.zeros(outputs, width))
            self.register_buffer("linear_bias", torch.zeros(outputs))

    def forward(self, hidden: Tensor, inputs: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Score the classes: states (N, T, H) and the LSTM's inputs (N, T, width) -> (N, T, outputs)."""
        if self.skips:
            kept = hidden if masks is None else hidden * masks.state[:, None]
            hidden = torch.cat([kept, inputs], -1)
        inner = torch.tanh(self.hidden(hidden))
        logits: Tensor = self.classes(inner if masks is None else inner * masks.head[:, None])
        if self.linear_finish:
            logits = self.network_weight * logits + F.linear(inputs.detach(), self.linear_weight, self.linear_bias)
        return logits

    def add_linear(self, classifier: nn.Linear, weights: tuple[float, float]) -> None:
        """Make the logits the weighted sum of the network's and of a linear classifier's."""
        self.network_weight.fill_(weights[0])
        self.linear_weight.copy_(weights[1] * classifier.weight.detach())
        self.linear_bias.copy_(weights[1] * classifier.bias.detach())

    def remove_linear(self) -> None:
        """Make the logits the network's own."""
        self.network_weight.fill_(1.0)
        self.linear_weight.zero_()
        self.linear_bias.zero_()


def class_probabilities(class_logits: Tensor, num_classes: int) -> Tensor:
    """Return the (..., C) probabilities of the classes.

    With (..., C + 1) logits "no prediction" takes its share, and they sum to less than 1.
    """
    return class_logits.float().softmax(-1)[..., :num_classes]


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
        self.scale = InputScale(shape.depth) if config.advanced.standardise else nn.Identity()
        self.encoder = SliceEncoder(config, shape.grid_size**2, shape.depth)
        remembers = config.advanced.scorer == "memory"
        projected = config.advanced.scorer_size if remembers else min(config.advanced.projection_size, shape.depth)
        self.memory = Memory(config, self.encoder.width, shape, projected)
        self.class_head = ClassHead(config, self.encoder.width, shape.outputs)
        self.location_head = MemoryHead(config, shape) if remembers else GridHead(config, shape)
        for embedding in (module for module in self.modules() if isinstance(module, nn.Embedding)):
            nn.init.normal_(embedding.weight, std=0.1)
        self.value_head = ValueHead(config.hidden_size, shape.values) if shape.values else None
        self.jump_head = nn.Linear(config.hidden_size, shape.jumps) if shape.jumps else None
        if self.jump_head is not None:
            nn.init.zeros_(self.jump_head.weight)
            nn.init.zeros_(self.jump_head.bias)
            self.jump_head.bias.data[0] = math.log(2 * (shape.jumps - 1))  # a probability of 2/3

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.location_head.score.weight.device

    @property
    def watches_changes(self) -> bool:
        """Whether the location logits depend on changes of cells."""
        return isinstance(self.location_head, MemoryHead) and self.location_head.watches_changes

    def fit(self, slices: Tensor, earlier: Tensor | None = None) -> None:
        """Fit the scale and the location head to (n, D) training slices.

        Args:
            slices: of some frames.
            earlier: of the same cells in earlier frames; needed if changes are watched.
        """
        if isinstance(self.scale, InputScale):
            self.scale.fit(slices)
        self.location_head.fit(self.scale(slices), None if earlier is None else self.scale(earlier))

    def weighed(self, looks: Looks, state: RecurrentState, masks: DropoutMasks | None) -> Looks:
        """Return one frame's looks, weighed by the location head if slice_weights is "attended", with the gradient."""
        if self.config.advanced.slice_weights != "attended":
            return looks
        head = self.location_head
        assert isinstance(head, MemoryHead)
        with self.autocast():
            seen = (looks.weights > 0).float()
            projected = head.project(looks.content)
            return looks._replace(weights=head.attention(projected, seen, looks.change, state.output, masks))

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
        self,
        first: Looks,
        rest: Looks,
        views: Views | None,
        masks: DropoutMasks | None,
        *,
        steps: Steps | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Play whole episodes with known actions, in one call of each LSTM layer.

        Args:
            first: looks of frame 1, without a frame axis.
            rest: looks of frames 2..T, (N, T - 1, ...).
            views: of frames 1..T-1; None if the location logits chose nothing. They are zeros then. A memory is
                computed again from the looks.
            masks: dropout that the episodes were played with.
            steps: of episodes with jumps, whose S observed frames stand for the T frames here.

        Returns:
            class logits (N, T, outputs); the location logits (N, T - 1, K*K) of the choices at frames 1..T-1, or if
            cells are drawn in sequence (N, T - 1, m, K*K), the logits that each cell in `rest` was drawn by; and the
            logits of jumps (N, T, J), if they are learned.
        """
        with self.autocast():
            hidden, inputs = self._remember(first, rest, masks, None if steps is None else steps.frames)
            before, jump_logits = hidden[:, :-1], self.jump_logits(hidden)
            class_logits = self.class_head(hidden, inputs, masks)
            if views is not None and isinstance(self.location_head, MemoryHead):
                views = views._replace(content=self.location_head.remembered(first, rest, views.seen))
            if views is None:
                cell_logits = self._zero_logits(before)
            elif self.location_head.is_sequential:
                cell_logits = self.location_head.sequence_logits(before, views, rest.cells, masks)
            else:
                cell_logits = self.location_head(before, views, masks)
        return class_logits.float(), cell_logits.float(), jump_logits

    def jump_logits(self, hidden: Tensor) -> Tensor | None:
        """Return the (..., J) logits of jumps after (..., H) outputs of the memory; None if they are not learned."""
        return None if self.jump_head is None else self.jump_head(hidden).float()

    def _remember(
        self, first: Looks, rest: Looks, masks: DropoutMasks | None, frames: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return the memory's outputs (N, T, H) and inputs (N, T, width) of whole episodes.

        Weights that depend on the state need one step for each frame.
        """
        if self.config.advanced.slice_weights != "attended":
            attended = torch.cat([self.encoder(first)[:, None], self.encoder(rest)], 1)
            return self.memory(attended, masks, frames)  # type: ignore[no-any-return]
        state, steps = self.memory.initial_state(len(first.cells)), []
        later = (Looks(*parts) for parts in zip(*(part.unbind(1) for part in rest), strict=True))
        for step, looks in enumerate((first, *later)):
            state.frame = step if frames is None else frames[:, step]
            hidden, inputs, state = self.memory.step(state, self.encoder(self.weighed(looks, state, masks)), masks)
            steps.append((hidden, inputs))
        hidden, inputs = (torch.cat(parts, 1) for parts in zip(*steps, strict=True))
        return hidden, inputs

    def _zero_logits(self, hidden: Tensor) -> Tensor:
        """Return (N, T, K*K) zeros for (N, T, H) states."""
        return hidden.new_zeros(*hidden.shape[:2], self.shape.grid_size**2)


def slice_weights(cell_logits: Tensor, cells: Tensor, kind: SliceWeights) -> Tensor:
    """Return l of eq. 3 over the chosen cells, (N, m), summing to 1; the update treats it as a constant.

    If cells are drawn in sequence, the (N, K*K) logits are those of the first draw: logits of different draws cannot be
    compared.
    """
    if kind == "softmax":
        return cell_logits.gather(1, cells).softmax(1)
    return torch.full(cells.shape, 1 / cells.shape[1], device=cells.device)
