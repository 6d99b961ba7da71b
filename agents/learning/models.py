"""Models: every way to look that can be trained and compared, one row each.

To add a model, add its name to `ModelName` and a row to `MODELS`. A rule that chooses cells without learning is a
function of a `Situation`; a new way to learn is a file of its own in agents/playing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..parallel.noise import Noise
from .glimpses import centre_cells, largest_of_least_seen, oracle_cells, random_cells

ModelName = Literal[
    "reinforce", "unlimited", "gumbel", "soft", "soft_hidden", "soft_top",
    "random", "centre", "norm", "oracle", "mean", "max", "all",
]  # fmt: skip


class Situation(NamedTuple):
    """Input of a rule that chooses the cells of the next frame for N episodes."""

    grid_size: int
    glimpses: int
    actor: Tensor | None
    """(N, K*K) bool: the actor's cells in the next frame; None if the source does not know them."""
    visits: Tensor
    """(N, K*K): number of times that each cell was chosen."""
    norms: Tensor
    """(N, K*K): norm of the slice that each cell was last seen with, 0 before."""


Rule = Callable[[Situation, Noise], Tensor]
"""Returns (N, m) int64 cells."""


def _random(situation: Situation, noise: Noise) -> Tensor:
    return random_cells(situation.visits.shape, situation.glimpses, noise)


def _centre(situation: Situation, noise: Noise) -> Tensor:
    return centre_cells(situation.grid_size, situation.glimpses).to(noise.device).expand(len(situation.visits), -1)


def _oracle(situation: Situation, noise: Noise) -> Tensor:
    assert situation.actor is not None
    return oracle_cells(situation.actor, situation.glimpses, noise)


def _norm(situation: Situation, noise: Noise) -> Tensor:
    return largest_of_least_seen(situation.norms, situation.visits, situation.glimpses)


@dataclass(frozen=True, kw_only=True)
class Model:
    """One way to look.

    Attributes:
        name: in flags, folders and files.
        title: in tables and figures.
        sees: m "cells" of a frame, any "set" of cells, or "all" cells.
        learns: how it learns where to look: by REINFORCE, by straight-through Gumbel samples, or by back-propagation
            through soft attention; None if it does not learn that.
        rule: chooses m cells without learning.
        ignores_content: whether its location logits see only the state and the cell.
        pools_maximum: whether it attends to the maximum over cells instead of their weighted sum.
        encodes_slices: whether slices pass the configured slice encoder; otherwise they are summed as they are.
        needs_actor: whether it must know where the actor is.
        uses_norms: whether its rule depends on the norms of seen slices.
    """

    name: ModelName
    title: str
    sees: Literal["cells", "set", "all"]
    learns: Literal["reinforce", "gumbel", "soft"] | None = None
    rule: Rule | None = None
    ignores_content: bool = False
    pools_maximum: bool = False
    encodes_slices: bool = True
    needs_actor: bool = False
    uses_norms: bool = False

    @property
    def has_budget(self) -> bool:
        """Whether results depend on m, the number of glimpses."""
        return self.sees == "cells"

    @property
    def looks_ahead(self) -> bool:
        """Whether it learns to choose at frame n the cells that it sees of frame n + 1."""
        return self.learns in ("reinforce", "gumbel")

    @property
    def is_soft(self) -> bool:
        """Whether it weighs the cells of the frame that it sees, and learns by the gradient of these weights."""
        return self.learns == "soft"

    @property
    def reads_all(self) -> bool:
        """Whether every slice has to be computed, attended to or not."""
        return self.sees == "all" or self.is_soft


class _Models(dict[ModelName, Model]):
    """Models by name; "own:TITLE" is an agent that was trained elsewhere, and is no member."""

    def __missing__(self, name: Any) -> Model:
        if not is_own(name):
            raise KeyError(name)
        return Model(name=name, title=name.removeprefix(OWN), sees="cells")

    def place(self, name: str) -> int:
        """Return the place of a model in tables; agents trained elsewhere come last."""
        names: list[str] = [*self]
        return names.index(name) if name in names else len(names)


OWN = "own:"


def is_own(name: str) -> bool:
    """Whether a name is that of an agent that was trained elsewhere."""
    return name.startswith(OWN) and len(name) > len(OWN)


MODELS = _Models(
    (model.name, model)
    for model in (
        Model(name="reinforce", title="REINFORCE, m glimpses", sees="cells", learns="reinforce"),
        Model(name="unlimited", title="REINFORCE, any number of glimpses", sees="set", learns="reinforce"),
        Model(name="gumbel", title="Gumbel straight-through, m glimpses", sees="cells", learns="gumbel"),
        Model(name="soft", title="soft attention, content and state", sees="all", learns="soft"),
        Model(name="soft_hidden", title="soft attention, state alone", sees="all", learns="soft", ignores_content=True),
        Model(name="soft_top", title="soft attention, its m likeliest cells", sees="cells", learns="soft"),
        Model(name="random", title="random, m cells", sees="cells", rule=_random),
        Model(name="centre", title="centre, m cells", sees="cells", rule=_centre),
        Model(name="norm", title="largest of the least seen, m cells", sees="cells", rule=_norm, uses_norms=True),
        Model(name="oracle", title="oracle, m cells", sees="cells", rule=_oracle, needs_actor=True),
        Model(name="mean", title="mean of all cells", sees="all", encodes_slices=False),
        Model(name="max", title="maximum over all cells", sees="all", encodes_slices=False, pools_maximum=True),
        Model(name="all", title="all cells, through the agent's encoder", sees="all"),
    )
)
