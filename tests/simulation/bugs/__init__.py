"""Planted bugs: small patches of the core, each of which the simulator must find.

A patch is found by the lines that it takes out, wherever they stand, so it stays good while other lines change; when
its own do, the test says so.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUDGET = 60.0
"""Seconds in which each must be found."""

EVENTS = "2500"
"""Of one run at most: short runs, so that many plans get their turn."""


def names() -> list[str]:
    """All planted bugs."""
    return sorted(path.stem for path in HERE.glob("*.patch"))


def apply(patch: str, root: Path) -> None:
    """Change the files under *root* as *patch*, a unified diff, says.

    Raises:
        ValueError: the lines that it takes out are not there, or more than once.
    """
    path: Path | None = None
    old: list[str] = []
    new: list[str] = []

    def change() -> None:
        if path is None or not old:
            return
        text = path.read_text(encoding="utf-8")
        before, after = "".join(old), "".join(new)
        if text.count(before) != 1:
            raise ValueError(f"{path.name} has these lines {text.count(before)} times, not once:\n{before}")
        path.write_text(text.replace(before, after), encoding="utf-8")

    for line in patch.splitlines(keepends=True):
        if line.startswith(("--- ", "+++ ", "@@")):
            change()
            old, new = [], []
            if line.startswith("+++ "):
                path = root / line[len("+++ b/") :].strip()
        elif path is not None:
            if line[0] in " -":
                old.append(line[1:])
            if line[0] in " +":
                new.append(line[1:])
    change()


def uncovered() -> dict[str, str]:
    """The environment for a process of which no coverage is measured, which would take half of its time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def find(name: str, *, budget: float = BUDGET) -> tuple[float, str]:
    """Seconds until the simulator found the bug, and what it said; an empty text when it did not find it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        ignore = shutil.ignore_patterns("__pycache__")
        for package in ("atom_sansio", "atom_sync"):
            shutil.copytree(ROOT / package, root / package, ignore=ignore)
        shutil.copytree(ROOT / "tests" / "simulation", root / "tests" / "simulation", ignore=ignore)
        apply((HERE / f"{name}.patch").read_text(encoding="utf-8"), root)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation", "--events", EVENTS, "--minutes", str(budget / 60)],
            cwd=root,
            env={**uncovered(), "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - began
    if done.returncode == 0:
        return took, ""
    lines = (done.stdout or done.stderr.strip().rpartition("\n")[2]).splitlines()
    return took, lines[0]


def find_all(wanted: list[str]) -> int:
    """Find the *wanted*, or all, and print what was said; the exit status is 1 if one was not found."""
    missed = 0
    for name in wanted or names():
        took, said = find(name)
        missed += not said
        print(f"{name:32} {took:5.1f} s  {said or 'NOT FOUND'}", flush=True)
    return 1 if missed else 0
