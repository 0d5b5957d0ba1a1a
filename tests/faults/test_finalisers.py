"""``__del__`` and weak reference callbacks that track, wherever garbage collection happens to run them."""

from __future__ import annotations

from pathlib import Path

import pytest
from interrupted_programs import arrived, delivered_next, once, run


@pytest.mark.parametrize("level", ["", "process", pytest.param("disk", marks=pytest.mark.thorough)])
def test_storm(url: str, tmp_path: Path, level: str) -> None:
    """With a collection at every second allocation, each event of the program and of the finalisers arrives once."""
    script = """
        import gc, weakref
        from atom_sync.backlog import Backlog

        path, level, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
        backlog = Backlog(path, level=level) if level else None
        tracker = Tracker(url, flush_interval=0.05, max_batch_events=50, backlog=backlog)
        dels, callbacks = itertools.count(), itertools.count()
        threads, tracked = set(), []

        class Farewell:
            def __init__(self):
                self.cycle = [self]

            def __del__(self):
                threads.add(threading.current_thread().name)
                tracker.track("del", next(dels))
                tracked.append("del")

        def callback(reference):
            tracker.track("callback", next(callbacks))
            tracked.append("callback")

        class Target:
            def __init__(self):
                self.cycle = [self]

        kept = []
        gc.set_threshold(1, 2, 2)

        def work(first):
            for n in range(first, count, 2):
                Farewell()
                kept.append(weakref.ref(Target(), callback))
                tracker.track("main", [n, [[n], [n, [n]]], str(n)])
                if n % 100 < 2:
                    tracker.flush(0)
                if n % 1000 < 2:
                    result = tracker.flush(30)
                    check(result.lost == result.pending == 0, result)

        other = threading.Thread(target=work, args=(1,))
        other.start()
        work(0)
        other.join()
        gc.set_threshold(700, 10, 10)
        while len(tracked) < 2 * count:  # collect() does nothing while another thread, which may be waiting, collects
            gc.collect()
            time.sleep(0.001)
        result = tracker.stop(30)
        statistics = tracker.statistics()
        check(result.lost == result.pending == 0, result)
        check(next(dels) == next(callbacks) == count, dels, callbacks)
        check(statistics.accepted == statistics.delivered == 3 * count, statistics)
        check(statistics.pending == statistics.pending_bytes == statistics.lanes == 0, statistics)
        print(*sorted(threads))
    """
    path = tmp_path / "events.db"
    count = 1000 if level == "disk" else 4000  # each waits for the disk
    print("ran in", run(script, url, str(path), level, str(count)))
    assert arrived(url, "del") == arrived(url, "callback") == once(*range(count))
    assert arrived(url, "main") == once(*([n, [[n], [n, [n]]], str(n)] for n in range(count)))
    assert not level or delivered_next(path) == once()


def test_at_the_end(url: str) -> None:
    """Objects that live until the interpreter ends may track in ``__del__``: delivered or refused, not lost."""
    script = """
        tracker = Tracker(url)
        tracker.track("s", "main")

        class Farewell:
            def __del__(self):
                try:
                    tracker.track("s", "late")
                except Exception as error:
                    os.write(1, type(error).__name__.encode())
                else:
                    os.write(1, b"accepted")

        kept = Farewell()
        kept.cycle = kept
    """
    assert run(script, url) == "TrackerClosed"
    assert arrived(url) == once("main")
