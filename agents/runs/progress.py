"""Progress of training: a bar on a terminal, and lines of text without one."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 30.0
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left, {rate_fmt}{postfix}"
SHOWN = {
    "train/accuracy": "train acc",
    "train/focus": "train focus",
    "validation/accuracy": "valid acc",
}  # scalars of the log that progress shows


class Progress:
    """Shows how far a command is in all updates of all models that it trains.

    Args:
        total: updates of all models.
        shows: whether this process prints at all.
    """

    def __init__(self, total: int, *, shows: bool = True) -> None:
        self._total, self._shows, self._done, self._counted = total, shows, 0, 0
        self._started = self._printed = time.perf_counter()
        self._values: dict[str, float] = {}
        self._model = ""
        is_terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, unit="up", ncols=80, bar_format=BAR, disable=not (shows and is_terminal))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._bar.close()

    def skip(self, updates: int) -> None:
        """Count updates that were made earlier; the rate leaves them out."""
        self._done += updates
        if not self._bar.disable:
            self._bar.initial += updates
            self._bar.update(updates)

    def advance(self, model: str, update: int, scalars: Mapping[str, float], *, of: int) -> None:
        """Count one update of a model, the `update`-th of `of`, and show its scalars."""
        self._done += 1
        self._counted += 1
        if model != self._model:
            self._model, self._values = model, {}
            self._bar.set_description_str(model)
        new = {shown: scalars[name] for name, shown in SHOWN.items() if name in scalars}
        if new:
            self._values |= new
            shown = ("train acc", "valid acc")  # more does not fit into 80 columns
            self._bar.set_postfix_str(" ".join(f"{n[:5]} {self._values[n]:.2f}" for n in shown if n in self._values))
        self._bar.update()
        if self._shows and self._bar.disable and self._is_due(update == of):
            self._printed = time.perf_counter()
            print(self._line(update, of), flush=True)

    def _is_due(self, last: bool) -> bool:
        return last or self._counted == 1 or time.perf_counter() - self._printed >= SECONDS_BETWEEN_LINES

    def _line(self, update: int, of: int) -> str:
        rate = self._counted / (time.perf_counter() - self._started)
        left = (self._total - self._done) / rate
        values = "  ".join(f"{name} {value:.3f}" for name, value in self._values.items())
        return f"{self._model} {update}/{of}  {rate:.1f} updates/s, {format_seconds(left)} left  {values}".rstrip()


def format_seconds(seconds: float) -> str:
    """Return a duration as "40 s", "3 min" or "1 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
