"""What a driver logs of a report that ``on_loss`` does not take."""

from __future__ import annotations

from collections.abc import Hashable

from ._messages import ReportLoss, ReportParked


def cause_and_words(report: ReportLoss | ReportParked) -> tuple[Hashable, str]:
    """What *report* has in common with others of its kind, which are logged once, and what is logged."""
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
        f"{loss.count} events of stream {loss.stream!r} are lost ({loss.reason.value}, status {loss.status}):"
        f" {loss.message}; losses of this kind are logged once, pass on_loss to see them all"
    )
