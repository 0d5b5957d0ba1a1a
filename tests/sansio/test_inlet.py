"""What holds the last events of a lane."""

from __future__ import annotations

from atom_sansio._inlet import NO_INLET, Inlet, Segment
from atom_sansio._ledger import Ledger


def test_a_new_inlet() -> None:
    """An inlet is open but lent nothing, is equal to itself alone, and shows neither events nor where it belongs."""
    inlet = Inlet(Ledger(max_events=None, max_bytes=1 << 20), "s", 0.0)
    inlet.append(b'"canary"\n')
    assert (inlet.max_size, inlet.max_events, inlet.lent_bytes, inlet.lent_events) == (0, 0, 0, 0)
    assert (
        repr(inlet) == "Inlet(stream='s', since=0.0, events=1, max_size=0, max_events=0, lent_bytes=0, lent_events=0)"
    )
    assert inlet == inlet
    assert inlet != Inlet(None, "s", 0.0)
    assert {inlet: 1}[inlet] == 1
    assert type(inlet.cut_oldest()) is bytes
    segment = Segment(lines=b"canary\n", events=1, since=0.0, full=False, due=True)
    assert "canary" not in repr(segment)
    assert not hasattr(inlet, "__dict__")
    assert not hasattr(segment, "__dict__"), "there may be many"


def test_no_inlet() -> None:
    """Where there is none, one stands that is closed, empty and of no stream."""
    nothing = "Inlet(stream='', since=0.0, events=0, max_size=-1, max_events=-1, lent_bytes=0, lent_events=0)"
    assert repr(NO_INLET) == nothing
    assert NO_INLET.close() == b""


def test_cut_oldest() -> None:
    """The first event is cut off with what was lent for it, and never more may come in than is lent."""
    inlet = Inlet(None, "s", 0.0, max_size=9, max_events=7, lent_bytes=10, lent_events=8)
    for line in (b"1\n", b"22\n"):
        inlet.append(line)
    assert inlet.cut_oldest() == b"1\n"
    assert (inlet.lines, inlet.events, inlet.count()) == (b"22\n", 1, 1)
    assert (inlet.max_size, inlet.max_events, inlet.lent_bytes, inlet.lent_events) == (8, 7, 8, 7)
    assert inlet.cut_oldest() == b"22\n"
    assert (inlet.max_size, inlet.max_events, inlet.lent_bytes, inlet.lent_events) == (5, 6, 5, 6)
    assert (inlet.events, inlet.count()) == (0, 0)


def test_an_inlet_that_is_closed() -> None:
    """Closing gives what is there, lets nothing more in, and gives what came all the same when asked again."""
    inlet = Inlet(None, "s", 0.0, max_size=100, max_events=100)
    inlet.append(b"1\n")
    inlet.append(b"2\n")
    assert (inlet.count(), inlet.close()) == (2, b"1\n2\n")
    assert inlet.max_size < 0
    assert inlet.max_events < 0
    assert inlet.close() == b""
    inlet.append(b"3\n")
    assert inlet.close() == b"3\n"
