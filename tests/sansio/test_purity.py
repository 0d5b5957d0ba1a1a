"""The core brings nothing of the outside world with it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import atom_sansio

PACKAGE = Path(atom_sansio.__file__).parent
ALLOWED = {
    "__future__", "base64", "binascii", "collections", "contextlib", "dataclasses", "datetime", "decimal", "enum",
    "functools", "h11", "hashlib", "heapq", "hmac", "importlib", "itertools", "json", "math", "operator", "orjson",
    "re", "struct", "sys", "types", "typing", "typing_extensions", "urllib", "weakref", "zlib",
}  # fmt: skip
IMPURE = {
    "_socket", "anyio", "asyncio", "concurrent", "fcntl", "getpass", "http", "io_uring", "logging", "multiprocessing",
    "random", "secrets", "select", "selectors", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess",
    "tempfile", "threading", "trio", "uuid",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"import sys, json\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_what_importing_it_loads() -> None:
    """Importing the core loads no module that could touch the world, beyond what its two dependencies load."""
    path = f"sys.path.insert(0, {str(PACKAGE.parent)!r})"
    own = modules_after(f"{path}; import atom_sansio") - modules_after(f"{path}; import h11, orjson")
    assert "atom_sansio._tracker" in own
    assert own & IMPURE == set()
    assert {name for name in own if name.partition(".")[0] in ("atom_sync", "atom_anyio", "hypothesis")} == set()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_what_it_names(path: Path) -> None:
    """Each module imports only itself, its two dependencies and modules that compute."""
    allowed = ALLOWED | ({"hypothesis"} if path.name == "testing.py" else set())
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        else:
            continue
        assert {name.partition(".")[0] for name in names} <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_what_it_calls(path: Path) -> None:
    """No module reads the clock, a file or the terminal by a name that needs no import."""
    tree = ast.parse(path.read_text("utf-8"))
    called = {node.func for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = {func.id for func in called if isinstance(func, ast.Name)}
    attributes = {func.attr for func in called if isinstance(func, ast.Attribute)}
    assert names & {"open", "print", "input", "exec", "eval", "breakpoint", "__import__"} == set()
    assert attributes & {"now", "today", "utcnow"} == set()
