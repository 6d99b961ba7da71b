"""Location heads: logits of the cells of the next frame, from what was seen and from the memory's state."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import PolicyConfig
from .episodes import DropoutMasks, InputShape, Looks, Views

SLOW_SHARE = 0.2  # weight of a new slice in the running means of `UsualSlices`
LARGEST_USUAL = 0.05  # a slice that is farther than usual by more than this has a smaller weight
SMALLEST_CHANGE = 0.1  # a slice that is farther than usual by less than this has not changed
GAIN = 10.0  # Adam moves each number equally fast, and those of age, change and nothing have to move further
FIRST_AGE_WEIGHT, FIRST_AGE_WEIGHT_UNTRIMMED, FIRST_CHANGE_WEIGHT, FIRST_NOTHING = 1.0, 3.0, 27.0, 3.0


class LocationHead(nn.Module):
    """Location logits of the next frame, from the views of the cells and the LSTM's state.

    The logit of cell i for frame n + 1 is u . tanh(v_n + Wd h_n)_i, with v_n from the views of the frame. With the
    glimpse order "sequential" the j-th cell is drawn by its own logits, with Wq (x_1 + ... + x_j-1) added within the
    tanh: the content of the view at the cells drawn before it.

    If any set of cells can be drawn, each by itself, a learned bias is added to all logits: it decides how many are.

    Args:
        config: of the network.
        shape: of its input.
        projected: width P of the content of a view.
    """

    def __init__(self, config: PolicyConfig, shape: InputShape, projected: int) -> None:
        super().__init__()
        advanced = config.advanced
        self.bias: nn.Parameter | None = None
        if shape.first_set_size:
            share = min(shape.first_set_size / shape.grid_size**2, 0.99)
            self.bias = nn.Parameter(torch.tensor(math.log(share / (1 - share))))
        self.is_sequential = advanced.glimpse_order == "sequential"
        self.drops = advanced.scorer_dropout > 0
        self.state = nn.Linear(config.hidden_size, advanced.scorer_size, bias=False)
        self.score = nn.Linear(advanced.scorer_size, 1, bias=False)
        if self.is_sequential:
            # It draws no random numbers, so all other weights start as those of the "joint" order.
            self.query = nn.utils.skip_init(  # type: ignore[no-untyped-call]
                nn.Linear, projected, advanced.scorer_size, bias=False
            )
            nn.init.zeros_(self.query.weight)

    def fit(self, slices: Tensor, earlier: Tensor | None) -> None:
        """Fit constants to (n, D) training slices and, if given, to slices of the same cells in earlier frames."""

    def project(self, cubes: Tensor) -> Tensor:
        """Return (..., P), the content of (..., D) slices in a view."""
        raise NotImplementedError

    def of_views(self, views: Views) -> Tensor:
        """Return v, (N, T, K*K, S)."""
        raise NotImplementedError

    def forward(self, hidden: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Score the cells of the next frame: hidden (N, T, H) and views of T frames -> (N, T, K*K)."""
        logits = self._score(self._activations(hidden, views), views, masks)
        return logits if self.bias is None else logits + self.bias

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
        state: Tensor = self.state(hidden)
        return self.of_views(views) + state[:, :, None]

    def _score(self, inner: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        """Return (N, T, K*K) logits for the argument of their tanh."""
        return self._unbiased(inner, masks)

    def _unbiased(self, inner: Tensor, masks: DropoutMasks | None) -> Tensor:
        """Return u . tanh of (N, ..., S)."""
        inner = torch.tanh(inner)
        if masks is not None and self.drops:
            inner = inner * masks.scorer.reshape(len(inner), *[1] * (inner.ndim - 2), -1)
        return self.score(inner)[..., 0]  # type: ignore[no-any-return]


class GridHead(LocationHead):
    """Location logits from the principal components of the slices of one frame.

    v_n is a 3 x 3 convolution over the grid of the visible slices of frame n, whether each cell was seen, and how
    often, so that neighbours of seen cells can be chosen, plus a vector of the cell. A learned repulsion times
    v / (1 + v), with v the earlier visits of the cell, is subtracted.
    """

    components: Tensor  # (D, P)

    def __init__(self, config: PolicyConfig, shape: InputShape) -> None:
        advanced, cells = config.advanced, shape.grid_size**2
        projected = min(advanced.projection_size, shape.depth)
        visible = nn.Conv2d(projected + 2, advanced.scorer_size, 3, padding=1)
        super().__init__(config, shape, projected)
        self.grid_size, self.visible = shape.grid_size, visible
        self.register_buffer("components", torch.eye(shape.depth, projected))
        self.place = nn.Parameter(torch.zeros(cells, advanced.scorer_size))
        self.repulsion = nn.Parameter(torch.tensor(advanced.repulsion))

    def fit(self, slices: Tensor, earlier: Tensor | None) -> None:
        """Set the projection to the principal components of (n, D) slices, scaled together to unit variance.

        Slices that are no wider than the projection keep their channels.
        """
        depth, projected = self.components.shape
        if depth <= projected:
            return
        centred = slices - slices.mean(0)
        # In float32 the algorithm fails to converge on some processors if slices have few dimensions.
        _, directions = torch.linalg.eigh((centred.T @ centred).double())  # ascending
        components = directions[:, -projected:].flip(1).to(slices.dtype)
        self.components.copy_(components / (centred @ components).std())

    def project(self, cubes: Tensor) -> Tensor:
        depth, projected = self.components.shape
        return cubes if depth == projected else F.linear(cubes, self.components.T)

    def of_views(self, views: Views) -> Tensor:
        episodes, frames = views.seen.shape[:2]
        size = self.grid_size
        grid = torch.cat([views.content, views.seen[..., None], _familiarity(views)[..., None]], -1)
        grid = grid.flatten(0, 1).transpose(1, 2).reshape(episodes * frames, -1, size, size)  # (N*T, P + 2, K, K)
        inner: Tensor = self.visible(grid).flatten(2).transpose(1, 2).reshape(episodes, frames, size**2, -1)
        return inner + self.place

    def _score(self, inner: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        return super()._score(inner, views, masks) - self.repulsion * _familiarity(views)


class MemoryHead(LocationHead):
    """Location logits from a memory of every cell, by itself: nothing depends on its place or on its neighbours.

    v_n of a cell is a running mean of the slices of it that were seen (`CellMemory`), the first glance included,
    through a learned projection, plus a vector if it was ever seen and one if it is seen in frame n. Terms with learned
    weights are added to the logit. One is log(1 + a), with a the age in the view (`Views`): the agent searches all
    cells in turn while none stands out. The other, on untrimmed clips only, is the change in the view: during an event,
    a cell shows something unusual. Small changes do not count. Otherwise cells whose background moves would be looked
    at again before other cells are searched. The same scores without the age, of the slices of one frame, can weigh the
    slices in X' (eq. 3); the cross-entropy teaches them then. On untrimmed clips an empty slice competes with them,
    with the learned score `nothing`: a few looks at which no cell stands out give a small X'.
    """

    usual_distance: Tensor  # of two slices that one cell shows in different frames; on untrimmed clips only

    def __init__(self, config: PolicyConfig, shape: InputShape) -> None:
        size = config.advanced.scorer_size
        super().__init__(config, shape, size)
        self.what = nn.Linear(shape.depth, size, bias=False)
        self.seen = nn.Linear(2, size)
        nn.init.zeros_(self.seen.weight)
        nn.init.zeros_(self.seen.bias)
        # Any set: each cell is drawn by itself, and first weights would change the number that is looked at.
        starts = shape.first_set_size == 0
        first_age = FIRST_AGE_WEIGHT if shape.trimmed else FIRST_AGE_WEIGHT_UNTRIMMED
        self.age_weight = nn.Parameter(torch.tensor(starts * first_age / GAIN))
        self.change_weight: nn.Parameter | None = None
        self.nothing: nn.Parameter | None = None
        if not shape.trimmed:
            self.change_weight = nn.Parameter(torch.tensor(starts * FIRST_CHANGE_WEIGHT / GAIN))
            self.nothing = nn.Parameter(torch.tensor(FIRST_NOTHING / GAIN))
            self.register_buffer("usual_distance", torch.tensor(0.0))

    def fit(self, slices: Tensor, earlier: Tensor | None) -> None:
        """Measure the usual distance between slices and `earlier` slices of the same cells, if changes are watched."""
        if self.watches_changes:
            assert earlier is not None
            self.usual_distance.copy_(relative_distance(slices, earlier).mean())

    @property
    def watches_changes(self) -> bool:
        """Whether the change of cells is a term of the logits."""
        return self.change_weight is not None

    def project(self, cubes: Tensor) -> Tensor:
        return self.what(cubes)  # type: ignore[no-any-return]

    def of_views(self, views: Views) -> Tensor:
        known = (views.content != 0).any(-1)  # the content of a cell that was never seen is zero
        return views.content + self.seen(torch.stack([known.float(), views.seen], -1))  # type: ignore[no-any-return]

    def _score(self, inner: Tensor, views: Views, masks: DropoutMasks | None) -> Tensor:
        scores = super()._score(inner, views, masks) + GAIN * self.age_weight * views.age.log1p()
        return scores if self.change_weight is None else scores + GAIN * self.change_weight * views.change

    def remembered(self, first: Looks, rest: Looks, seen: Tensor) -> Tensor:
        """Return (N, T - 1, K*K, P), the content of the views of frames 1..T-1.

        Args:
            first: looks of frame 1, at all cells in order.
            rest: of frames 2..T.
            seen: (N, T - 1, K*K), as in the views.
        """
        shown = self.project(rest.content[:, :-1]).float()
        shown = shown * (rest.weights[:, :-1, :, None] > 0)
        places = rest.cells[:, :-1, :, None].expand_as(shown)
        later = shown.new_zeros(*shown.shape[:2], seen.shape[2], shown.shape[3]).scatter_add(2, places, shown)
        every = torch.cat([self.project(first.content).float()[:, None], later], 1)
        memory = CellMemory()
        return torch.stack([memory.add(*parts) for parts in zip(every.unbind(1), seen.unbind(1), strict=True)], 1)

    def attention(
        self, projected: Tensor, seen: Tensor, change: Tensor, hidden: Tensor, masks: DropoutMasks | None
    ) -> Tensor:
        """Return l of eq. 3, (N, m), for the looks of one frame, from their scores by `weigh`.

        Args:
            projected: (N, m, P), of the slices of one frame.
            seen: (N, m) in equal parts, 0 for slices that are not seen; weights are 0 if none is. It may carry the
                gradient of a choice.
            change: (N, m), of these looks.
            hidden: (N, H), the state before the frame.
            masks: of the episodes.
        """
        inner = projected + self.seen.weight.sum(1) + self.seen.bias
        scores = self._unbiased(inner + self.state(hidden)[:, None], masks).float()
        if self.change_weight is not None:
            scores = scores + GAIN * self.change_weight * change
        return self.weigh(scores, seen)

    def weigh(self, scores: Tensor, seen: Tensor) -> Tensor:
        """Return l of eq. 3, (N, m): the softmax of the (N, m) scores of the slices that are `seen`, as in `attention`.

        On untrimmed clips `nothing` competes with them, and the weights sum to less than 1.
        """
        top = scores.amax(-1, keepdim=True)
        if self.nothing is None:
            kept = seen * (scores - top).exp()
            return kept / kept.sum(-1, keepdim=True).clamp_min(1e-30)
        nothing = GAIN * self.nothing
        top = top.maximum(nothing)
        kept = seen / seen.detach().amax(-1, keepdim=True).clamp_min(1e-30) * (scores - top).exp()
        return kept / (kept.sum(-1, keepdim=True) + (nothing - top).exp()).clamp_min(1e-30)


class CellMemory:
    """The content of each cell, as a running mean: a new slice counts half, so that old ones fade."""

    def __init__(self) -> None:
        self._content: Tensor | None = None

    def add(self, shown: Tensor, seen: Tensor) -> Tensor:
        """Add the (N, K*K, P) content of a frame, zero where (N, K*K) `seen` is 0, and return the memory."""
        shown = shown.float()
        old = torch.zeros_like(shown) if self._content is None else self._content
        share = seen * torch.where((old != 0).any(-1), 0.5, 1.0)  # a cell that was never seen is zero
        self._content = old + share[..., None] * (shown - old)
        return self._content


def relative_distance(one: Tensor, other: Tensor) -> Tensor:
    """Return the (...) distances of (..., D) vectors, as a share of the largest that vectors of their lengths have."""
    farthest = one.norm(dim=-1) + other.norm(dim=-1)
    distance: Tensor = (one - other).norm(dim=-1) / farthest.clamp_min(1e-30)
    return distance


class UsualSlices:
    """A robust running mean of the slices seen in each cell, and of their distances from it.

    A cell that moves evenly has large distances. Its motion is then usual, and no change. A slice that is farther than
    usual by more than LARGEST_USUAL moves both means by a smaller share, as in Huber's estimate of location. So an
    event stays a change while it lasts. The first slice of a cell counts as usual. If it shows an event,
    the background after it is a change for up to 30 looks.

    Args:
        cells: K*K.
        first_distance: usual distance of a cell until one was measured, a scalar.
    """

    def __init__(self, cells: int, first_distance: Tensor) -> None:
        self._cells, self._first_distance = cells, first_distance
        self._mean = torch.empty(0)  # (N * K*K, D)

    def add(self, slices: Tensor, cells: Tensor, seen: Tensor) -> Tensor:
        """Add (N, m, D) slices at (N, m) different cells, where (N, m) `seen` is 1, and return their change.

        Returns:
            (N, m): the distance of each slice from the mean of its cell (`relative_distance`), minus the usual
            distance and SMALLEST_CHANGE, at least 0. It is 0 on the first look at a cell, and for slices that are not
            seen.
        """
        count, depth = len(slices), slices.shape[2]
        rows = (torch.arange(count, device=cells.device)[:, None] * self._cells + cells).flatten()
        if not len(self._mean):  # nothing was seen before
            self._distance = self._first_distance.expand(count, self._cells).clone()
            self._mean = slices.new_zeros(count * self._cells, depth)
            self._mean.index_copy_(0, rows, (slices * seen[..., None]).flatten(0, 1))
            return torch.zeros_like(seen)
        mean, usual = self._mean.index_select(0, rows).reshape(slices.shape), self._distance.gather(1, cells)
        known = (mean.norm(dim=-1) > 0) * seen
        distance = relative_distance(slices, mean)
        excess: Tensor = (distance - usual) * known
        share = SLOW_SHARE * known * (LARGEST_USUAL / excess.clamp_min(LARGEST_USUAL))
        self._mean.index_copy_(0, rows, torch.lerp(mean, slices, (seen - known + share)[..., None]).flatten(0, 1))
        self._distance.scatter_(1, cells, usual + share * excess)
        return (excess - SMALLEST_CHANGE).clamp_min(0)


def _familiarity(views: Views) -> Tensor:
    """Return (N, T, K*K) in [0, 1): 0 for a cell that was never chosen."""
    return views.visits / (1 + views.visits)
