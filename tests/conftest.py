"""What all tests share: hypothesis profiles, signals, environment, and the coverage that the whole suite must have."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("brief", deadline=None, max_examples=20)  # beside a run with more, with another Python
settings.load_profile("ci" if os.environ.get("CI") else "default")

OUR_OWN = ("ATOM_FAULTS_", "ATOM_SIMULATE_", "ATOM_TEST_")
"""What the names of variables begin with that are for the tests themselves."""

FLOORS = {"atom_sansio": 100.0, "atom_sync": 95.0, "atom_anyio": 95.0, "atom_sync/ironsource": 95.0}
"""Per cent of branches and lines that the whole suite must reach, by package."""


def pytest_configure() -> None:
    """Let tests, and the programs that they start, find nothing that whoever runs them has set for other programs.

    That is options of a tracker, such as a backlog whose events would be delivered to a test, and signals, which are
    ignored in the background and under ``nohup``.
    """
    for name in list(os.environ):
        if name.startswith("ATOM_") and not name.startswith(OUR_OWN):
            del os.environ[name]
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure no coverage of a test that is so marked.  (The marker of pytest-cov fails where none is measured.)"""
    controller = getattr(item.config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    if controller is None or item.get_closest_marker("uncovered") is None:
        yield
        return
    controller.pause()
    yield
    controller.resume()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of the whole suite in which a package has less coverage than its floor."""
    config = session.config
    coverage = getattr(config.pluginmanager.getplugin("_cov"), "cov_controller", None)
    partial = config.getoption("keyword") or config.getoption("markexpr") or config.getoption("collectonly")
    whole = [str(config.rootpath / path) for path in config.getini("testpaths")] == [
        str(config.invocation_params.dir / argument) for argument in config.args
    ]
    if coverage is None or partial or not whole or session.testsfailed:
        return
    reporter = config.pluginmanager.getplugin("terminalreporter")
    for package, floor in FLOORS.items():
        reached = coverage.cov.report(include=[f"{package}/*"], file=io.StringIO())
        if round(reached, 2) < floor:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            if reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(f"coverage of {package} is {reached:.2f} %, must be {floor:g} %", red=True)
