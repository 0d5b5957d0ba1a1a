"""Which clock the drivers go by."""

from __future__ import annotations

import ast
from pathlib import Path

import atom_anyio
import atom_sync

PACKAGES = (Path(atom_sync.__file__).parent, Path(atom_anyio.__file__).parent)

READERS = {
    ("_clock.py", "unix_offset"),  # for Loss.time, and dates in Retry-After
    ("_tracker.py", "_new_core"),  # likewise
    ("_tables.py", "set_aside"),  # for people: when something damaged was found
    ("_files.py", "aside"),  # for a file's name
}
"""Of the system's clock: where none of them waits, nobody does when it jumps."""


def test_who_reads_the_systems_clock() -> None:
    """It is read where a moment is written down or read, and nothing else is timed by it."""
    readers = set()
    for path in (path for package in PACKAGES for path in [*package.glob("*.py"), *package.glob("backlog/*.py")]):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        imported = {
            f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        assert {name for name in imported if name.startswith(("time.", "datetime."))} <= {"time.monotonic"}
        for function in nodes:
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                attributes = (ast.unparse(node) for node in ast.walk(function) if isinstance(node, ast.Attribute))
                if {"time.time", "time.time_ns"} & set(attributes):
                    readers.add((path.name, function.name))
    assert readers == READERS
