"""A row of the table: a figure, what it is held against, and the target."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Sense(Enum):
    """Which side of the target is good."""

    AT_MOST = "at most"
    AT_LEAST = "at least"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table of docs/performance.md."""

    name: str
    """Short and stable: what the recorded ratios are kept under."""
    what: str
    limit: str
    """What it is held against, for people to read."""
    ours: str
    value: float
    """What is compared with the target."""
    spread: tuple[float, float] | None = None
    """Between which values half of the rounds are."""
    unit: str = "x"
    target: float | None = None
    """None for a row that only informs."""
    sense: Sense = Sense.AT_MOST

    @property
    def met(self) -> bool | None:
        """Whether the target is reached, as far as it is printed; None without one."""
        if self.target is None:
            return None
        shown = float(number(self.value).replace(",", ""))
        return shown <= self.target if self.sense is Sense.AT_MOST else shown >= self.target


def number(value: float) -> str:
    """*value* with as many digits as mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def us(value: float) -> str:
    """Microseconds."""
    return f"{value:.2f} us" if value >= 1 else f"{value:.3f} us"
