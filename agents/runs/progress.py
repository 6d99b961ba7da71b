"""Progress of training: a bar on a terminal or in a notebook, and lines of text elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping

from tqdm.auto import tqdm

from glimpse_env.terminal import shows_bars

SECONDS_BETWEEN_LINES = 30.0
BAR = "{desc} |{bar}| {n_fmt}/{total_fmt}, {remaining} left, {rate_fmt}{postfix}"
SHOWN = {  # names on the screen of some scalars of the log
    "train/accuracy": "train acc",
    "train/focus": "train focus",
    "validation/accuracy": "valid acc",
}


class Progress:
    """Shows how far a command is in all `total` updates of all models that it trains, if this process `shows` it."""

    def __init__(self, total: int, *, shows: bool = True) -> None:
        self._total, self._shows, self._done, self._counted = total, shows, 0, 0
        self._started = self._printed = time.perf_counter()
        self._values: dict[str, float] = {}
        self._model = ""
        self._bar = tqdm(total=total, unit="up", ncols=80, bar_format=BAR, disable=not (shows and shows_bars()))

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
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
        now = time.perf_counter()
        is_due = update == of or self._counted == 1 or now - self._printed >= SECONDS_BETWEEN_LINES
        if self._shows and self._bar.disable and is_due:
            self._printed = now
            rate = self._counted / (now - self._started)
            left = format_seconds((self._total - self._done) / rate)
            values = "  ".join(f"{name} {value:.3f}" for name, value in self._values.items())
            print(f"{model} {update}/{of}  {rate:.1f} updates/s, {left} left  {values}".rstrip(), flush=True)


def format_seconds(seconds: float) -> str:
    """Return a duration as "40 s", "3 min" or "1 h 20 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
