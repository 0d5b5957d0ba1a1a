"""A thread pool for actions.  The tracker has no use for it any more; programs may."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from .atom_logger import get_logger


class BatchEventPool:
    """Runs actions in threads, which do not keep the process alive.

    Args:
        thread_count: number of threads, at least 1.
        max_events: actions that may wait; 0 or less for any number.

    Raises:
        ValueError: *thread_count* is no int from 1 up.
    """

    def __init__(self, thread_count: int, max_events: int) -> None:
        if not isinstance(thread_count, int) or thread_count < 1:
            raise ValueError(f"thread_count must be an int from 1 up, not {thread_count!r}")
        self._max_events = max_events
        self._actions: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._is_running = True
        for _ in range(thread_count):
            threading.Thread(target=self.task_worker, name="atom-pool", daemon=True).start()

    def add_event(self, event_action: Callable[[], object]) -> None:
        """Have *event_action* called; waits while ``max_events`` are waiting.

        Raises:
            RuntimeError: the pool was stopped.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_running or not 0 < self._max_events <= len(self._actions))
            if not self._is_running:
                raise RuntimeError("the pool was stopped and takes no more actions")
            self._actions.append(event_action)
            self._changed.notify_all()

    def stop(self) -> None:
        """Let the threads end once they have done what waits.  Returns at once; stopping twice is harmless."""
        with self._changed:
            self._is_running = False
            self._changed.notify_all()

    def task_worker(self) -> None:
        """What each thread does."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._actions or not self._is_running)
                if not self._actions:
                    return
                action = self._actions.popleft()
                self._changed.notify_all()
            try:
                action()
            except Exception:
                get_logger().exception("an action of the pool failed")

    def is_empty(self) -> bool:
        """Whether no action waits."""
        return not self._actions
