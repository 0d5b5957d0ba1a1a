"""Threads that track, flush and change keys at once, with the interpreter switching as often as it can."""

from __future__ import annotations

import json

from interrupted_programs import arrived, once, posix, run


@posix
def test_storm(url: str) -> None:
    """Beside others that flush, read and change keys, and with signals, each event arrives once and in order.

    The budget is small, so threads wait for room.  What comes in the midst of another call cannot wait; if there is
    no room when that call ends, it is reported as lost, and only then.
    """
    script = """
        import json
        sys.setswitchinterval(1e-6)
        tracker = Tracker(url, flush_interval=0.05, max_batch_events=100, max_pending_events=20_000,
                          on_loss=lambda loss: losses.append((loss.reason.value, loss.stream, loss.events)))
        losses = []
        signals = itertools.count()
        tracked = [0] * 6
        over = threading.Event()
        errors = []

        def careful(work):
            def run(*arguments):
                try:
                    work(*arguments)
                except BaseException as error:
                    errors.append(repr(error))
            return run

        @careful
        def track(me):
            while not over.is_set():
                tracker.track("ab"[tracked[me] % 2], [me, tracked[me]])
                tracked[me] += 1

        @careful
        def flush():
            while not over.is_set():
                tracker.flush(0)
                result = tracker.flush(20)
                check(result.pending == 0, result)

        @careful
        def set_key():
            for n in itertools.count():
                if over.is_set():
                    return
                tracker.set_auth_key("ab"[n % 2], f"key {n}")
                tracker.statistics()

        @careful
        def read():
            while not over.is_set():
                statistics = tracker.statistics()
                lost = sum(statistics.lost.values())
                check(statistics.accepted == statistics.delivered + lost + statistics.pending, statistics)
                over.wait(0.001)

        def handler(signum, frame):
            tracker.track("signals", next(signals))
            signal.setitimer(signal.ITIMER_REAL, 1e-3)  # what was interrupted gets on, however slow the machine is

        signal.signal(signal.SIGALRM, handler)
        threads = [threading.Thread(target=track, args=(me,)) for me in range(6)]
        threads += [threading.Thread(target=work) for work in (flush, set_key, read)]
        for thread in threads:
            thread.start()
        signal.setitimer(signal.ITIMER_REAL, 1e-3)
        end = time.monotonic() + 2
        n = 0
        while time.monotonic() < end:
            tracker.track("main", n)
            n += 1
        signal.signal(signal.SIGALRM, lambda signum, frame: None)  # for the one that may just be on its way
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        over.set()
        for thread in threads:
            thread.join(30)
            check(not thread.is_alive(), thread.name)
        result = tracker.stop(30)
        check(not errors, errors)
        check(result.pending == 0, result)
        signalled = next(signals)
        statistics = tracker.statistics()
        lost = sum(statistics.lost.values())
        check(statistics.accepted == sum(tracked) + n + signalled, tracked, n, signalled, statistics)
        check(statistics.accepted == statistics.delivered + lost, statistics)
        check(statistics.pending == statistics.pending_bytes == statistics.lanes == 0, statistics)
        check({reason for reason, *_ in losses} <= {"backlog_full"}, losses)
        check(sum(len(events) for *_, events in losses) == lost, losses, statistics)
        print(json.dumps([n, signalled, tracked, [[s, event] for _, s, events in losses for event in events]]))
    """
    n, signalled, tracked, lost = json.loads(run(script, url))
    print(f"{n} events of the main thread, {signalled} of signals, {tracked} of other threads, {len(lost)} lost")
    assert min(n, signalled, *tracked) > 10
    tracks = {"main": range(n), "signals": range(signalled)}
    for stream, numbers in tracks.items():
        assert arrived(url, stream) + once(*(event for of, event in lost if of == stream)) == once(*numbers)
    for rest, stream in enumerate("ab"):
        seen = arrived(url, stream)
        assert set(seen.values()) == {1}
        # A Counter keeps the order of arrival.
        for me, count in enumerate(tracked):
            missing = [event[1] for of, event in lost if of == stream and event[0] == me]
            numbers = [number for number in range(rest, count, 2) if number not in missing]
            assert [event[1] for event in seen if event[0] == me] == numbers
