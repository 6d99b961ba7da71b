"""The command `videoglimpse`: its help, its version, its commands and their errors."""

import signal
import sys

import pytest
from agent_toys import write_marked_store
from finished_runs import run_main
from glimpse_agents import __main__ as console

import glimpse_env
from glimpse_env.terminal import one_interrupt

# The tests have imported the commands before; a process of its own has not.
pytestmark = pytest.mark.filterwarnings("ignore:.* found in sys.modules after import of package")


def test_help_lists_every_command(capsys):
    for words in ([], ["-h"], ["--help"]):
        run_main(console, *words)
        printed = capsys.readouterr().out
        assert all(f"\n  {name:9} " in printed for name in console.COMMANDS)


def test_the_version_is_that_of_the_package(capsys):
    run_main(console, "--version")
    assert capsys.readouterr().out == f"videoglimpse {glimpse_env.__version__}\n"


def test_info_prints_versions_or_a_store(tmp_path, capsys):
    run_main(console, "info")
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows["videoglimpse"] == glimpse_env.__version__
    assert rows["python"] == sys.version.split()[0]
    assert "gymnasium" in rows
    store = write_marked_store(tmp_path / "marked")
    run_main(console, "info", store)
    assert "fold 1             train 12, validation 6, test 6" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name in console.COMMANDS if name != "info"])
def test_every_command_explains_itself(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as exited:
        run_main(console, name, "--help")
    assert exited.value.code in (0, None)
    assert "usage: " in capsys.readouterr().out


def test_a_command_gets_its_words(capsys):
    with pytest.raises(SystemExit, match=r"error: --preset must be one of .*, got 'x'"):
        run_main(console, "train", "--preset", "x")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trian", "error: no command 'trian': did you mean train\\?"),
        ("--verbose", "error: no command '--verbose': use train, predict, .*"),
    ],
)
def test_unknown_commands_are_refused(name, message):
    with pytest.raises(SystemExit, match=message):
        run_main(console, name)


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tyro", None)
    with pytest.raises(SystemExit, match=r'error: tyro is missing: pip install "videoglimpse\[video\]"'):
        run_main(console, "extract", "--help")


def test_an_interruption_while_a_command_is_imported_ends_without_a_traceback(monkeypatch):
    class Interrupting:
        def find_spec(self, name, path=None, target=None):
            if name == "interrupted":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupting(), *sys.meta_path])
    monkeypatch.setitem(console.COMMANDS, "extract", ("interrupted", "video", ""))
    with pytest.raises(SystemExit) as exited:
        run_main(console, "extract")
    assert exited.value.code == 130


def test_later_interrupts_do_not_break_the_clean_up():
    cleaned = []

    def stop():
        with one_interrupt():
            try:
                signal.raise_signal(signal.SIGINT)
            finally:
                signal.raise_signal(signal.SIGINT)
                cleaned.append(True)

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert cleaned
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
