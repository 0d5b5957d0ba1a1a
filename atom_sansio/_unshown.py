"""Keeps keys out of tracebacks, which many tools print or send away with the local variables of each frame."""

from __future__ import annotations

from contextlib import suppress


def forget_locals(error: BaseException) -> None:
    """Clear the local variables of all frames that *error* has left, and of what it was raised from.

    To be called where keys may be among them that no :class:`AuthKey` hides yet.  The caller's own frame is still
    running, so it has to ``del`` what it holds itself.
    """
    left: list[BaseException | None] = [error]
    done: set[int] = set()
    while left:
        each = left.pop()
        if each is None or id(each) in done:  # a chain may come back to where it began
            continue
        done.add(id(each))
        left += [each.__cause__, each.__context__]
        where = each.__traceback__
        while where is not None:
            with suppress(RuntimeError):  # it runs still
                where.tb_frame.clear()
            where = where.tb_next
