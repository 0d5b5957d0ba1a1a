"""What users would pick instead, by the same harness: ``python -m tests.benchmarks.peers --help``.

``environments`` pins the peers' versions and makes a virtual environment for each, ``scripts`` has the program that
runs there, and ``run`` starts them by turns.

What the figures are:

- Every event is made and tracked by one thread; ``net`` is the CPU of all threads from the first event to the end
  of the flush, less that of the same loop with nothing to call.  Client and sink share one CPU.
- Queues are given room for all events, batches are the peers' own, but for snowplow's: 64, not 10 as by default.
- The sink counts one key of the event in the bodies, so a run in which fewer or more arrive than were tracked is an
  error.  snowplow sends base64, so the name of that field is counted; kafka has delivery reports instead of a sink,
  and its CPU includes the mock broker's.  Nothing is compressed: gzip, sentry's default, is off.
- Mixpanel posts within the call, so it loses nothing, has nothing pending, and its p99 is a round trip.
- A burst is made as fast as one thread can, at default settings, on all CPUs.  What is lost is what had not arrived
  after the flush; unnoticed is the part of it for which the call neither raised nor returned a refusal.  On a
  machine that others use, one peer's bursts differ much: the middle one is shown, and the range.
- Only loopback is ever used: a peer whose Python code asks for another address in the burst or the memory run fails.
"""

from .run import compare, table

__all__ = ["compare", "table"]
