"""Several processes that train as one: which rows are whose, and what is averaged between them.

`torchrun` starts them, and each is a rank. Without it there is one rank, which has all rows and waits for nobody.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, by torch.optim, its default arguments would keep the group for ever
from torch import Tensor

T = TypeVar("T")

# Longer than the first rank may play the validation or test split, for which the others wait. A rank that dies is
# noticed before: by gloo at once, and else by torchrun, which ends the others.
TIMEOUT = timedelta(hours=2)
SECONDS_TO_TELL = 10.0  # that a process which fails has to tell why


class RankLostError(RuntimeError):
    """Another process of the run has stopped, which tells why unless it was killed."""


@dataclass(frozen=True)
class Share:
    """The rows of a batch that are one rank's: equal parts, one after the other.

    Attributes:
        rank: from 0.
        ranks: how many there are.
    """

    rank: int = 0
    ranks: int = 1

    @property
    def is_first(self) -> bool:
        """Say whether this rank is the one that validates, logs, saves and prints."""
        return self.rank == 0

    def of(self, total: int) -> slice:
        """Return which of `total` rows are this rank's.

        Raises:
            ValueError: the rows cannot be shared evenly.
        """
        if total % self.ranks:
            raise ValueError(
                f"the {total} clips of an update cannot be shared evenly by {self.ranks} processes: set --clips to a "
                f"multiple of {self.ranks}, or start another number of processes"
            )
        size = total // self.ranks
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Share()


def uniform(shape: Sequence[int], generator: torch.Generator, share: Share = WHOLE) -> Tensor:
    """Draw this rank's rows of noise in [0, 1): the same numbers however many ranks share a batch.

    Args:
        shape: of this rank's part, rows first; every rank draws all parts and keeps its own.
        generator: in the same state on every rank.
    """
    rows = shape[0]
    noise = torch.rand((rows * share.ranks, *shape[1:]), generator=generator, device=generator.device)
    return noise[share.of(len(noise))]


def current_share() -> Share:
    """Return the share of this process among those that have joined."""
    joined = dist.is_available() and dist.is_initialized()
    return Share(dist.get_rank(), dist.get_world_size()) if joined else WHOLE


def started_ranks() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined() -> Iterator[Share]:
    """Join the other processes that torchrun started, until the block ends; who has joined before stays so."""
    if started_ranks() == 1 or dist.is_initialized():
        yield current_share()
        return
    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield current_share()
    except RankLostError:
        time.sleep(SECONDS_TO_TELL)  # torchrun ends all as soon as one has left; not before it has told why
        raise
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its CUDA device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def together() -> Iterator[None]:
    """Leave the block on all ranks or none: where some fail, the first of them raises its error, others RankLostError.

    There is nothing in the block that ranks wait for each other in.
    """
    share, error = current_share(), None
    try:
        yield
    except Exception as raised:
        error = raised
    failed = -largest_over_ranks(-(share.ranks if error is None else share.rank))
    if error is not None and failed == share.rank:
        raise error
    if failed < share.ranks:
        raise RankLostError(f"process {failed} of this run has stopped")


def from_first(make: Callable[[], T]) -> T:
    """Return on every rank what the first one makes; the others wait for it."""
    share = current_share()
    made = [make() if share.is_first else None]
    if share.ranks > 1:
        with _noticing_losses():
            dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    return made[0]  # type: ignore[return-value]


def largest_over_ranks(number: int) -> int:
    """Return the largest of the ranks' numbers."""
    if current_share().ranks == 1:
        return number
    largest = torch.tensor(number)
    with _noticing_losses():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean over the ranks of a tensor that each of them has."""
    ranks = current_share().ranks
    if ranks == 1:
        return values
    values = values.clone()
    with _noticing_losses():
        dist.all_reduce(values)
    return values / ranks


def mean_scalars(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the mean over the ranks of scalars that all of them have under the same names."""
    means: list[float] = mean_over_ranks(torch.tensor(list(scalars.values()), dtype=torch.float64)).tolist()
    return dict(zip(scalars, means, strict=True))


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients by their mean over the ranks, in one message.

    A parameter without a gradient has none on any rank, since all train the same phase; it keeps none, so that the
    optimiser leaves it out, as in a run of one process.
    """
    if current_share().ranks == 1:
        return
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    means = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, torch.split(means, [part.numel() for part in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@contextmanager
def _noticing_losses() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(f"another process of this run has stopped ({error})") from error
