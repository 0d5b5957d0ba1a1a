"""What a driver logs of a report that ``on_loss`` does not take."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ._messages import Loss, ReportLoss, ReportParked


@dataclass(frozen=True, slots=True)
class BacklogSays:
    """What a driver has heard of its backlog, for the user."""

    words: str


Report: TypeAlias = ReportLoss | ReportParked | BacklogSays


def cause_and_words(report: Report) -> tuple[Hashable, str]:
    """What *report* has in common with others of its kind, which are logged once, and what is logged."""
    if isinstance(report, BacklogSays):
        return report, report.words
    if isinstance(report, ReportParked):
        why = (
            f"events of stream {report.stream!r} wait for set_auth_key(): {report.message}"
            if report.status is None
            else f"the collector refuses the key of stream {report.stream!r} (status {report.status}); its events"
            " wait for set_auth_key()"
        )
        more = "further streams whose key is refused are not logged, statistics() counts them"
        return ("parked", report.status), f"{why}; {more}"
    loss = report.loss
    return (loss.reason, loss.status), (
        f"{_lost(loss, loss.count)}; losses of this kind are logged once, pass on_loss to see them all"
    )


def causes_and_words(reports: Iterable[Report], *, on_loss: bool) -> Iterator[tuple[Hashable, str]]:
    """What is logged of *reports* in the end: if there is an ``on_loss``, which has not returned from them, in all."""
    if not on_loss:
        yield from map(cause_and_words, reports)
        return
    losses: dict[Hashable, list[Loss]] = {}
    for report in reports:
        if isinstance(report, ReportLoss):
            losses.setdefault((report.loss.reason, report.loss.status), []).append(report.loss)
        else:
            yield cause_and_words(report)
    for cause, alike in losses.items():
        first, others = alike[0], len({loss.stream for loss in alike}) - 1
        more = "" if not others else f" and {others} other{'s' * (others > 1)}"
        these = "this loss" if len(alike) == 1 else f"these {len(alike)} losses"
        what = _lost(first, sum(loss.count for loss in alike), more)
        yield ("untold", cause), f"{what}; on_loss has not returned from {these}"


def too_slow(untold: int) -> str:
    """What is logged of *untold* losses that there was no room to keep until ``on_loss`` came to them."""
    return f"on_loss is slower than losses come: it was not told of {untold}, which statistics() counts"


def _lost(loss: Loss, events: int, more: str = "") -> str:
    """That *events* are lost as *loss* says, of its stream and *more*."""
    what, are = ("event", "is") if events == 1 else ("events", "are")
    return (
        f"{events} {what} of stream {loss.stream!r}{more} {are} lost"
        f" ({loss.reason.value}, status {loss.status}): {loss.message}"
    )
