"""Several processes that train as one: torchrun starts them, and each is a rank. Without it there is one rank."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn  # imported later, by torch.optim, its default arguments would keep the group for ever
from torch import Tensor

from .noise import WHOLE, Share

T = TypeVar("T")

# The other ranks wait this long while the first one plays the validation or test split, or fits the linear classifier.
# A rank that dies is noticed earlier: by gloo at once, or by torchrun, which ends the others.
TIMEOUT = timedelta(hours=2)
ERROR_GRACE_SECONDS = 10.0  # lets a failing rank print its error before torchrun ends it


class RankLostError(RuntimeError):
    """Another process of the run has stopped; it printed the reason unless it was killed."""


def current_share() -> Share:
    """Return the share of this process among the processes that joined."""
    is_joined = dist.is_available() and dist.is_initialized()
    return Share(dist.get_rank(), dist.get_world_size()) if is_joined else WHOLE


def started_ranks() -> int:
    """Return how many processes torchrun has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def join_ranks() -> Iterator[Share]:
    """Join the other processes of torchrun until the block ends; a process that has joined already stays joined."""
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
        time.sleep(ERROR_GRACE_SECONDS)  # torchrun ends all ranks as soon as one leaves
        raise
    finally:
        dist.destroy_process_group()


def local_rank() -> int:
    """Return the number of this process on its machine, which is that of its CUDA device."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextmanager
def raise_together() -> Iterator[None]:
    """Raise on all ranks if one fails: the first failing rank raises its error, the others raise RankLostError.

    Ranks must not wait for each other inside the block.
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
    """Call `make` on the first rank, and return its result on every rank."""
    share = current_share()
    made = [make() if share.is_first else None]
    if share.ranks > 1:
        with _raising_rank_lost():
            dist.broadcast_object_list(made, src=0, device=torch.device("cpu"))
    return made[0]  # type: ignore[return-value]


def largest_over_ranks(number: int) -> int:
    """Return the largest number of any rank."""
    if current_share().ranks == 1:
        return number
    largest = torch.tensor(number)
    with _raising_rank_lost():
        dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Return the mean of a tensor over the ranks."""
    ranks = current_share().ranks
    if ranks == 1:
        return values
    values = values.clone()
    with _raising_rank_lost():
        dist.all_reduce(values)
    return values / ranks


def mean_scalars(scalars: Mapping[str, float]) -> dict[str, float]:
    """Return the mean of each scalar over the ranks; all ranks have the same names."""
    means: list[float] = mean_over_ranks(torch.tensor(list(scalars.values()), dtype=torch.float64)).tolist()
    return dict(zip(scalars, means, strict=True))


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Replace the gradients by their mean over the ranks, in one message.

    All ranks train the same phase, so a parameter without a gradient has none on any rank. It keeps none, and the
    optimiser skips it, as in a run of one process.
    """
    if current_share().ranks == 1:
        return
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    means = mean_over_ranks(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, mean in zip(gradients, torch.split(means, [part.numel() for part in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


@contextmanager
def _raising_rank_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise RankLostError(f"another process of this run has stopped ({error})") from error
