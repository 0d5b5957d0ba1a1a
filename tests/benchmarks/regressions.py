"""Whether delivery has become slower than it was: a short run of ratios against recorded ones."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import calls, delivery, imports, memory
from .rows import number

RECORDED = Path(__file__).with_name("recorded.json")
BOUND = 1.5
"""How many times the recorded ratio is too much."""
TRIES = 3
"""A row fails when it fails as often as this in a row: others use the machine too."""

DELIVERY = ("sync-default", "sync-64", "asyncio-default", "trio-default")
Measure = Callable[[Collection[str]], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A ratio that is over its bound."""

    name: str
    recorded: float
    measured: float

    def __str__(self) -> str:
        bound = self.recorded * BOUND
        return (
            f"{self.name}: {number(self.measured)}x, recorded {number(self.recorded)}x, bound {number(bound)}x"
            f" ({BOUND:g} of the recorded)"
        )


def short(names: Collection[str], rounds: int = 3) -> dict[str, float]:
    """The ratios of the rows *names*, from fewer rounds than the table has."""
    result: dict[str, float] = {}
    if "track" in names:
        result |= {row.name: row.value for row in calls.rows(calls.measure(rounds))}
    if wanted := [name for name in DELIVERY if name in names]:
        result |= {row.name: row.value for row in delivery.rows(delivery.measure(rounds, wanted))}
    if "memory-small" in names:
        result |= {row.name: row.value for row in memory.rows(memory.measure(1, ("small",)))}
    if any(name.startswith("import-") for name in names):
        result |= imports.ratios(imports.measure(rounds))
    return {name: value for name, value in result.items() if name in names}


NAMES = ("track", *DELIVERY, "memory-small", "import-core", "import-native")


def regressions(
    recorded: Mapping[str, float], measure: Measure, say: Callable[[str], object] = print
) -> list[Regression]:
    """The rows that are over their bound in every try; later tries repeat only what failed."""
    failed: list[Regression] = []
    names: Collection[str] = list(recorded)
    for attempt in range(1, TRIES + 1):
        measured = measure(names)
        failed = []
        for name in names:
            over = measured[name] > recorded[name] * BOUND
            if over:
                failed.append(Regression(name=name, recorded=recorded[name], measured=measured[name]))
            verdict = "over the bound" if over else "fine"
            say(f"{name}: {number(measured[name])}x, recorded {number(recorded[name])}x, {verdict}")
        names = [each.name for each in failed]
        if not names or attempt == TRIES:
            break
        say(f"again, since the machine may have been busy: {', '.join(names)}")
    return failed


def check() -> int:
    """The status to exit with, after saying what was found."""
    failed = regressions(json.loads(RECORDED.read_text())["ratios"], short)
    for each in failed:
        print(f"slower than recorded: {each}", file=sys.stderr)
    return 1 if failed else 0


def record() -> None:
    """Take what is measured now as what to compare with."""
    ratios = {name: round(value, 3) for name, value in short(NAMES, rounds=9).items()}
    RECORDED.write_text(json.dumps({"python": platform.python_version(), "ratios": ratios}, indent=2) + "\n")
    for name, value in ratios.items():
        print(f"{name}: {number(value)}x")
