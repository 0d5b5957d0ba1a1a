"""What is logged of reports that nobody takes, and which of them are of one kind."""

from __future__ import annotations

from atom_sansio import Loss, LossReason, ReportLoss, ReportParked
from atom_sansio._logged import BacklogSays, cause_and_words, causes_and_words, too_slow


def loss(
    reason: LossReason = LossReason.REJECTED,
    status: int | None = 400,
    message: str = "no table",
    stream: str = "clicks",
    count: int = 2,
) -> ReportLoss:
    return ReportLoss(
        loss=Loss(
            stream=stream,
            lines=b"1\n" * count,
            count=count,
            reason=reason,
            status=status,
            message=message,
            attempts=1,
            time=0.0,
        )
    )


def parked(status: int | None, message: str = "bad key") -> ReportParked:
    return ReportParked(stream="clicks", status=status, message=message)


def test_what_a_backlog_says() -> None:
    """It is logged as it is, each thing once."""
    said = BacklogSays("the disk is full")
    assert cause_and_words(said) == (said, "the disk is full")
    assert len({said, BacklogSays("the disk is full"), BacklogSays("it is well")}) == 2
    assert not hasattr(said, "__dict__")
    assert list(causes_and_words([said], on_loss=True)) == [(said, "the disk is full")]


def test_words_of_a_loss() -> None:
    """They say how many events of which stream are lost, and why, and where to see the others; no event is shown."""
    _, words = cause_and_words(loss())
    assert words == (
        "2 events of stream 'clicks' are lost (rejected, status 400): no table;"
        " losses of this kind are logged once, pass on_loss to see them all"
    )


def test_words_of_one_event_that_is_lost() -> None:
    """They say one event is, whether there is an on_loss or not."""
    beginning = "1 event of stream 'clicks' is lost (rejected, status 400): no table; "
    for on_loss in (False, True):
        [(_, words)] = causes_and_words([loss(count=1)], on_loss=on_loss)
        assert words.startswith(beginning)


def test_words_of_a_refused_key() -> None:
    """They name the stream, whose events wait for a key, and the status; not the server's words."""
    _, words = cause_and_words(parked(403))
    assert words == (
        "the collector refuses the key of stream 'clicks' (status 403); its events wait for set_auth_key();"
        " further streams whose key is refused are not logged, statistics() counts them"
    )


def test_words_of_a_key_that_is_missing() -> None:
    """Where nothing was sent they say what is missing."""
    _, words = cause_and_words(parked(None, "no key for it"))
    assert words == (
        "events of stream 'clicks' wait for set_auth_key(): no key for it;"
        " further streams whose key is refused are not logged, statistics() counts them"
    )


def test_kinds() -> None:
    """Losses are of one kind if reason and status are the same, refused keys if the status is, whatever was said."""
    reports = [
        loss(),
        loss(status=404),
        loss(status=None),
        loss(LossReason.TOO_LARGE),
        parked(401),
        parked(403),
        parked(None),
    ]
    assert len({cause_and_words(report)[0] for report in reports}) == len(reports)
    assert cause_and_words(parked(401))[0] == ("parked", 401)
    assert cause_and_words(loss(message="other"))[0] == cause_and_words(loss())[0]
    assert cause_and_words(parked(401, "other"))[0] == cause_and_words(parked(401))[0]


def test_words_of_losses_that_on_loss_has_not_returned_from() -> None:
    """They are counted by kind, and nobody who has passed on_loss is told to; a refused key is said as always."""
    views, other = loss(message="other", stream="views"), loss(stream="other")
    reports = [loss(), parked(403), loss(status=404), views, loss(), other]
    assert list(causes_and_words(reports, on_loss=True)) == [
        cause_and_words(parked(403)),
        (
            ("untold", (LossReason.REJECTED, 400)),
            "8 events of stream 'clicks' and 2 others are lost (rejected, status 400): no table;"
            " on_loss has not returned from these 4 losses",
        ),
        (
            ("untold", (LossReason.REJECTED, 404)),
            "2 events of stream 'clicks' are lost (rejected, status 404): no table;"
            " on_loss has not returned from this loss",
        ),
    ]
    [(_, words)] = causes_and_words([loss(), views], on_loss=True)
    assert words.startswith("4 events of stream 'clicks' and 1 other are lost (rejected")


def test_words_of_what_is_left_without_on_loss() -> None:
    """Without one they are those of each report."""
    reports = [loss(), parked(403), loss(status=404)]
    assert list(causes_and_words(reports, on_loss=False)) == [cause_and_words(report) for report in reports]


def test_too_slow() -> None:
    """How many losses there was no room for is said, and where they are counted."""
    assert too_slow(3) == ("on_loss is slower than losses come: it was not told of 3, which statistics() counts")
