"""The command `python -m glimpse_env` and the version."""

from importlib import metadata

import glimpse_env
from glimpse_env.__main__ import main, versions_by_extra


def test_the_version_is_that_of_the_installed_package():
    assert glimpse_env.__version__ == metadata.version("videoglimpse")


def test_the_command_prints_versions_environments_and_extras(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"videoglimpse       {glimpse_env.__version__}"
    assert lines[4] == "environments       VideoGlimpse-v0, VideoGlimpseEasy-v0, VideoGlimpseUntrimmed-v0"
    assert any(line.startswith("extra render       pillow ") for line in lines)


def test_an_extra_lacks_what_is_not_installed(monkeypatch, capsys):
    requirements = [
        "numpy>=1",
        "Typing_Extensions>=4; extra == 'a'",
        'no-such-thing; extra == "a"',
        "videoglimpse[a]; extra == 'b'",
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: requirements)
    there = metadata.version("typing_extensions")
    assert versions_by_extra() == {"a": {"Typing_Extensions": there, "no-such-thing": "missing"}}
    main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"extra a            Typing_Extensions {there}, no-such-thing missing"


def test_without_an_installed_package_extras_are_unknown(monkeypatch, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    main()
    assert capsys.readouterr().out.splitlines()[-1].startswith("extras             unknown, since the package is")
