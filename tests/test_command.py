"""How commands end: with a status, or with one line that says what is wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from glimpse_agents.parallel.ranks import RankLostError
from glimpse_agents.runs.command import ERRORS, parse_flags, run_command
from glimpse_agents.runs.files import SaveError
from glimpse_agents.runs.signals import StoppedError

from glimpse_env.video.decode import VideoError


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("status", [None, 0, 1])
def test_a_command_ends_with_its_own_status(status):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: status)
    assert ended.value.code == status


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_ends_with_the_signal_and_says_how_to_resume(capsys, signum, status):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(StoppedError(signum, "update 3")))
    assert ended.value.code == status
    line = f"stopped by {signum.name} after update 3: run the same command again to resume\n"
    assert capsys.readouterr().err == line


def test_a_second_signal_ends_without_a_traceback(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(KeyboardInterrupt))
    assert ended.value.code == 130
    assert capsys.readouterr().err == "stopped at once: a run resumes from its last saved state\n"


EXPECTED = {*ERRORS, FileNotFoundError, SaveError} - {RankLostError, VideoError}


@pytest.mark.parametrize("error", sorted(EXPECTED, key=lambda error: error.__name__))
def test_an_expected_error_is_one_line(error):
    with pytest.raises(SystemExit, match=r"^error: the disk is full$"):
        run_command(raising(error("the disk is full")))


@pytest.mark.parametrize(("rank", "code"), [("0", "error: process 1 has stopped: resume with --resume"), ("1", 1)])
def test_the_loss_of_a_process_is_printed_by_one_of_the_others(monkeypatch, rank, code):
    monkeypatch.setenv("LOCAL_RANK", rank)
    with pytest.raises(SystemExit) as ended:
        run_command(raising(RankLostError("process 1 has stopped")))
    assert ended.value.code == code


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyError, AssertionError])
def test_an_error_of_the_code_keeps_its_traceback(error):
    with pytest.raises(error):
        run_command(raising(error))


def test_several_processes_are_for_reinforce_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    calls = []
    with pytest.raises(SystemExit, match="error: torchrun is for training"):
        run_command(lambda: calls.append(1))
    assert not calls
    with pytest.raises(SystemExit):
        run_command(lambda: calls.append(1), ranks=True)
    assert calls == [1]


def test_help_texts_do_not_break_at_line_breaks_of_the_source(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    @dataclass(frozen=True)
    class Common:
        first: str = "a"
        """Ends,
        (so) goes on."""

    @dataclass(frozen=True)
    class Flags(Common):
        """Flags of a test."""

        out: str = "a"
        """A long sentence whose first line ends early,
        (and) goes on "here"."""

    with pytest.raises(SystemExit):
        parse_flags(Flags, ["--help"], program="test")
    help_text = capsys.readouterr().out
    assert "Ends, (so) goes on. (default: a)" in help_text
    assert 'A long sentence whose first line ends early, (and) goes on "here". (default: a)' in help_text
    assert parse_flags(Flags, ["--out", "b"], program="test") == Flags("a", "b")


def test_names_that_the_terminal_cannot_print_are_escaped():
    program = "from glimpse_agents.runs.command import run_command; run_command(lambda: print('\u65e5\\udce9'))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    printed = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True).stdout
    assert printed.split() == [rb"\u65e5\udce9"]
