"""Defaults, under the names they always had.  Where 1.5.1 and 1.5.4 differ, the value is that of 1.5.1."""

from __future__ import annotations

from typing import Final

from atom_sansio import SDK_VERSION as _VERSION
from atom_sansio._options import MAX_BATCH_BYTES, MAX_BATCH_EVENTS

SDK_VERSION: Final = _VERSION
"""What the collector is told in ``x-ironsource-atom-sdk-version``."""

ATOM_ENDPOINT: Final = "http://track.atom-data.io/"
"""Of the hosted service, which is gone: pass the endpoint of your own collector."""
ATOM_URL: Final = ATOM_ENDPOINT
"""The name that the README of 1.5.1 uses."""

BATCH_SIZE: Final = 64
"""Events in a batch."""
BATCH_SIZE_LIMIT: Final = MAX_BATCH_EVENTS
BATCH_BYTES_SIZE: Final = 64 * 1024
"""Bytes of a batch."""
BATCH_BYTES_SIZE_LIMIT: Final = MAX_BATCH_BYTES
FLUSH_INTERVAL: Final = 10000
"""Milliseconds."""

BATCH_WORKER_COUNT: Final = 1
"""Requests at once."""
BATCH_POOL_SIZE: Final = 1
"""Batches of a stream that are taken out of a custom ``event_backlog`` ahead of their delivery."""

BACKLOG_SIZE: Final = 500
"""Events of one stream that wait or are under way."""
BACKLOG_BLOCKING: Final = True
"""Whether ``track`` waits for room for as long as it takes."""
BACKLOG_TIMEOUT: Final = 1
"""Seconds that it waits otherwise."""

RETRY_MAX_TIME: Final = 1800
"""Seconds; no pause between two tries is longer."""
RETRY_MAX_COUNT: Final = 12
"""Tries of one batch, unless it is retried for ever."""
RETRY_EXPO_BACKOFF_BASE: Final = 3
"""Seconds; doubled with each try, this is how long a pause may be."""
RETRY_FOREVER: Final = True

REQUEST_TIMEOUT: Final = 60
"""Seconds."""

DEBUG_FILE_PATH: Final = "/tmp/"  # noqa: S108 - as documented; the file is private and never followed as a link
"""Folder of the files that ``debug_to_file`` writes."""
