"""How commands that train for long end."""

import sys

import pytest
from glimpse_agents.learning.config import Config
from glimpse_agents.runs.command import run_command
from glimpse_agents.runs.folder import SaveError
from glimpse_agents.runs.signals import StoppedError


def test_a_command_gets_its_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command", "--seed", "7"])
    seen = []
    run_command(seen.append, Config)
    assert seen[0].seed == 7


def test_a_stop_ends_with_the_signal_and_says_how_to_go_on(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command"])

    def stop(_):
        raise StoppedError(15, "update 3")

    with pytest.raises(SystemExit) as ended:
        run_command(stop, Config)
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped by SIGTERM after update 3: give the same command again to go on\n"


@pytest.mark.parametrize("error", [ValueError, FileNotFoundError, FloatingPointError, SaveError])
def test_what_is_wrong_is_told_in_a_line(monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["command"])

    def fail(_):
        raise error("the disk is full")

    with pytest.raises(SystemExit, match=r"^error: the disk is full$"):
        run_command(fail, Config)


def test_a_fault_of_the_code_is_no_error_of_the_user(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        run_command(lambda _: 1 / 0, Config)


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["command"])
    seen = []
    with pytest.raises(SystemExit, match="error: torchrun shares the updates of one run"):
        run_command(seen.append, Config)
    assert not seen
