"""The command `python -m glimpse_env` and the version."""

from importlib import metadata

import glimpse_env
from glimpse_env.__main__ import main, missing_by_extra


def test_the_version_is_that_of_the_installed_package():
    assert glimpse_env.__version__ == metadata.version("videoglimpse")


def test_the_command_prints_version_environments_and_extras(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"videoglimpse {glimpse_env.__version__} (Gymnasium ")
    assert lines[1] == "environments: VideoGlimpse-v0, VideoGlimpseEasy-v0, VideoGlimpseUntrimmed-v0"
    assert any(line.startswith("extra render: ") for line in lines)


def test_an_extra_lacks_what_is_not_installed(monkeypatch, capsys):
    class Found:
        def __init__(self, name):
            self.name = name

    requirements = ["numpy>=1", 'Some_Thing>=2; extra == "a"', "other; extra == 'a'", 'third[x]>=1; extra == "b-c"']
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    monkeypatch.setattr(metadata, "distributions", lambda: [Found("some-thing"), Found("Third")])
    assert missing_by_extra() == {"a": ["other"], "b-c": []}
    main()
    assert capsys.readouterr().out.splitlines()[2:] == ["extra a: lacks other", "extra b-c: installed"]


def test_without_an_installed_package_extras_are_unknown(monkeypatch, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    main()
    assert capsys.readouterr().out.splitlines()[2].startswith("extras: unknown, since the package is not installed")
