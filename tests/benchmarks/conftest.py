"""Benchmarks leave one line each, shown together below pytest-benchmark's own table."""

import pytest

LINES = pytest.StashKey()


def pytest_configure(config):
    config.stash[LINES] = []


@pytest.fixture
def report(request):
    """Take a line for the summary at the end of the run."""
    return request.config.stash[LINES].append


def pytest_terminal_summary(terminalreporter, config):
    if lines := config.stash[LINES]:
        terminalreporter.section("benchmarks and their limits")
        for line in lines:
            terminalreporter.write_line(line)
