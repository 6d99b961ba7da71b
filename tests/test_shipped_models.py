"""The trained models that are installed with the package: they load, and are as good as their cards say."""

import re
import sys

import pytest
from glimpse_agents import load
from glimpse_agents.reinforce import main
from glimpse_agents.runs.command import run_command
from glimpse_agents.runs.folder import PACKED, SHIPPED, PackedRun, find_run

from glimpse_env import SyntheticSource
from glimpse_env.catalogue import EMBEDDED

NAMES = sorted(path.stem for path in SHIPPED.glob(f"*{PACKED}"))


class FewClips(SyntheticSource):
    _clips_per_split = (1, 1, 40)


def test_there_is_a_model_of_the_default_source():
    assert "synthetic" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_small_and_has_a_card_with_its_numbers(name):
    path = SHIPPED / f"{name}{PACKED}"
    assert path.stat().st_size < 5e6
    card, run = (SHIPPED / f"{name}.md").read_text(), find_run(path)
    record, measured = run.record(), run.finished().measured
    assert f"{measured.accuracy:.3f}" in card
    assert f"seed {record.config.training.seed}" in card
    assert record.git_commit[:10] in card
    assert "python agents/reinforce.py" in card
    assert re.search(r"95 % interval|95 % confidence", card)
    assert not re.search(rb"/root|/home|/tmp", path.read_bytes())


def test_the_model_of_the_default_source_solves_it(monkeypatch):
    monkeypatch.setitem(EMBEDDED, "few", FewClips)
    model = load("synthetic")
    assert isinstance(model.run, PackedRun)
    measured = model.evaluate(source="few")
    assert len(measured.correct) == 40
    assert measured.accuracy >= 0.95
    assert measured.focus >= 0.9
    with pytest.raises(ValueError, match="was trained on 'synthetic', which is neither a feature store nor a lazy"):
        model.predict("video.mp4")


def test_the_command_evaluates_it_by_its_name(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EMBEDDED, "few", FewClips)
    monkeypatch.setattr(sys, "argv", ["reinforce.py", "--evaluate", "synthetic", "--source", "few"])
    with pytest.raises(SystemExit) as ended:
        run_command(main, ranks=True)
    assert ended.value.code is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[0] == "reinforce"
    assert float(lines[1].split()[1]) >= 0.95
    assert lines[2].startswith("chance 0.125; 40 test videos")
