"""The old SDK's API over :mod:`atom_sync`: code written for its versions 1.5.1 to 1.5.4 runs unchanged.

Module by module as it was.  What no longer has a use inside, ``batch_event_pool`` and
``queue_event_storage``, is there all the same and works, for programs that use it themselves.
"""
