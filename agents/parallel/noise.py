"""Random numbers of a batch that several processes may share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The rows of a batch that belong to one rank, counted from 0: equal parts, in the order of the ranks."""

    rank: int = 0
    ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this rank validates, logs, saves and prints."""
        return self.rank == 0

    def of(self, total: int) -> slice:
        """Return the rows of this rank among `total` rows; a ValueError if they cannot be shared evenly."""
        if total % self.ranks:
            raise ValueError(
                f"{self.ranks} processes cannot share the {total} clips of an update evenly: set --clips to a multiple "
                f"of {self.ranks}, or start another number of processes"
            )
        size = total // self.ranks
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Share()


@dataclass(frozen=True)
class Noise:
    """A generator, and the rows of its draws that belong to this rank.

    Every rank has a generator in the same state, draws the numbers of the whole batch and keeps its own rows, so
    results do not depend on how many ranks share a batch.
    """

    generator: torch.Generator
    share: Share = WHOLE

    @classmethod
    def seeded(cls, seed: int, device: torch.device | str = "cpu", share: Share = WHOLE) -> Noise:
        """Return a new source of noise on a device."""
        return cls(torch.Generator(device).manual_seed(seed), share)

    @property
    def device(self) -> torch.device:
        """Device of the generator and of its draws."""
        return self.generator.device

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Draw from [0, 1); `shape` is that of this rank's part, rows first."""
        rows = shape[0]
        drawn = torch.rand((rows * self.share.ranks, *shape[1:]), generator=self.generator, device=self.device)
        return drawn[self.share.of(len(drawn))]

    def gumbel(self, shape: Sequence[int]) -> Tensor:
        """Draw standard Gumbel noise."""
        return -torch.log(-torch.log(self.uniform(shape).clamp(1e-20, 1 - 1e-7)))
