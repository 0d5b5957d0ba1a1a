"""One mutant against the tests of its module, in a process of its own.

The process is forked from one that has set up the test tools and imported nothing of ours, so each mutant is imported
anew at the cost of ours alone.  That needs ``fork``, so not Windows.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from enum import Enum
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType
from typing import Final

import anyio.pytest_plugin  # noqa: F401
import h11  # noqa: F401
import hypothesis.stateful  # noqa: F401
import orjson  # noqa: F401
import pytest
from hypothesis import HealthCheck, Phase, settings

sys.dont_write_bytecode = False  # or else every process would compile all the rest of it again

settings.register_profile(
    "mutation",
    deadline=None,
    derandomize=True,
    max_examples=25,
    database=None,
    phases=[Phase.explicit, Phase.generate],  # a counterexample is enough, it need not be small
    suppress_health_check=list(HealthCheck),
)

_MEMORY: Final = 4 * 1024**3
"""Bytes of address space: a loop without end that collects something ends sooner."""

_PYTEST: Final = [
    "-x", "-s", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:cov",
    "--hypothesis-profile=mutation", "-W", "ignore::pytest.PytestAssertRewriteWarning",
]  # fmt: skip


_QUIET: Final = ["-p", "no:terminal"]


class Outcome(Enum):
    """What became of a mutant."""

    SURVIVED = "survived"
    KILLED = "killed"
    TIMED_OUT = "timed out"


class _Changed:
    """Finds the changed module in place of the one on disk."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        class Loader(SourceFileLoader):
            def get_code(self, fullname: str) -> CodeType:
                return code

        self._spec = spec_from_file_location(name, path, loader=Loader(name, str(path)))
        self._name = name

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return self._spec if name == self._name else None


class Runner:
    """Runs the tests of one module with one change after another, each in a process of its own.

    The processes are forked when pytest has been set up and nothing of ours is imported yet, since that takes longer
    than most modules' tests do.

    Args:
        name: of the module that is changed.
        path: its file.
        quiet: whether what pytest says is not shown.
    """

    def __init__(self, name: str, path: Path, *, quiet: bool = True) -> None:
        self._name = name
        self._path = path
        self._quiet = quiet
        self._work: Callable[[], None] | None = None
        self._is_child = False

    def run(self, tests: Sequence[str], work: Callable[[], None]) -> None:
        """Call *work*, which calls :meth:`outcome` for each change, with *tests* to be run in their order."""
        self._work = work
        pytest.main([*_PYTEST, *(_QUIET if self._quiet else ["-q"]), *tests], plugins=[self])
        assert not self._is_child

    def outcome(self, code: CodeType, *, timeout: float) -> Outcome:
        """What becomes of the module if *code* is in its place."""
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            raise _Forked(code)
        deadline = time.monotonic() + timeout
        pause = 0.005
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return Outcome.SURVIVED if status == 0 else Outcome.KILLED
            if time.monotonic() > deadline:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return Outcome.TIMED_OUT
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection(self) -> bool | None:
        """Fork; a child then goes on to collect and run the tests, with the change, and its parent never does."""
        assert self._work is not None
        try:
            self._work()
        except _Forked as forked:
            self._is_child = True
            self._become(forked.code)
            return None
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """The tests have run; what pytest would tidy up is gone with the process."""
        if self._is_child:
            sys.stdout.flush()
            os._exit(int(exitstatus))

    def _become(self, code: CodeType) -> None:
        os.setsid()
        gc.freeze()
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self._quiet:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        assert not any(module.partition(".")[0].startswith("atom_") for module in sys.modules)
        sys.meta_path.insert(0, _Changed(self._name, self._path, code))


class _Forked(BaseException):
    """Leaves the work in a child that is to run the tests."""

    def __init__(self, code: CodeType) -> None:
        super().__init__()
        self.code = code
