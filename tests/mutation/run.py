"""One mutant against the tests of its module, in a process of its own.

The process is forked from one that has the test tools imported but nothing of ours, so each mutant is imported anew
at the cost of ours alone.  That needs ``fork``, so not Windows.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
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
    "-x", "-q", "-o", "addopts=", "--import-mode=importlib", "-p", "no:cacheprovider", "-p", "no:cov",
    "--hypothesis-profile=mutation", "-W", "ignore::pytest.PytestAssertRewriteWarning",
]  # fmt: skip


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


def run(name: str, path: Path, code: CodeType, tests: Sequence[str], *, timeout: float, quiet: bool = True) -> Outcome:
    """Run *tests*, one file after another, with *code* as the module called *name*."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            status = _in_child(name, path, code, tests, quiet=quiet)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)
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


def _in_child(name: str, path: Path, code: CodeType, tests: Sequence[str], *, quiet: bool) -> int:
    os.setsid()
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
    assert not any(module.partition(".")[0].startswith("atom_") for module in sys.modules)
    sys.meta_path.insert(0, _Changed(name, path, code))  # type: ignore[arg-type]
    for test in tests:
        status = pytest.main([*_PYTEST, test])
        if status:
            return int(status)
    return 0
