"""A finished run as its folder tells it, without playing or building anything."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .folder import read_json
from .results import arm_folder


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run's files say.

    Attributes:
        folder: of the run.
        content: of config.json.
        result: of result.json.
        evaluations: of each arm's evaluation.json, the learned policy first.
        metrics: by arm, the lines of its metrics.jsonl; none where the file was not kept.
    """

    folder: Path
    content: dict[str, Any]
    result: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]
    metrics: dict[str, list[dict[str, float]]]

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, of whatever version of this code."""
        config: dict[str, Any] = self.content["config"]
        return config

    @property
    def tests(self) -> dict[str, dict[str, Any]]:
        """By arm, what was measured on the test split."""
        return {arm: evaluation["test"] for arm, evaluation in self.evaluations.items()}

    def measured(self, name: str) -> dict[str, Any]:
        """Return by arm what the test split gave for a measure, but for the arms that have none."""
        return {arm: test[name] for arm, test in self.tests.items() if test.get(name) is not None}

    @classmethod
    def read(cls, folder: Path) -> FinishedRun:
        """Read a run's folder.

        Raises:
            FileNotFoundError: it is no run's folder, or the run is not finished.
            ValueError: a file of it is damaged.
        """
        if not (folder / "config.json").exists():
            raise FileNotFoundError(
                f"{folder} is not the folder of a run (no config.json): name one that agents/reinforce.py wrote"
            )
        content = read_json(folder / "config.json")
        folders = {arm: arm_folder(folder, arm) for arm in ("learned", *content["config"]["controls"])}
        for path in (folder / "result.json", *(place / "evaluation.json" for place in folders.values())):
            if not path.exists():
                raise FileNotFoundError(
                    f"the run {folder} is not finished (no {path.relative_to(folder)}): "
                    f"finish it with python agents/reinforce.py --resume {folder}"
                )
        return cls(
            folder=folder,
            content=content,
            result=read_json(folder / "result.json"),
            evaluations={arm: read_json(place / "evaluation.json") for arm, place in folders.items()},
            metrics={arm: _lines(place / "metrics.jsonl") for arm, place in folders.items()},
        )


def _lines(path: Path) -> list[dict[str, float]]:
    """Read JSON lines; one that a kill cut short is no line."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            lines.append(json.loads(line))
    return lines
