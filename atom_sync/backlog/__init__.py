"""A backlog on disk: what ``track`` accepted outlives the process, and what was refused for good can be sent again."""

from atom_sansio import Level

from ._backlog import Backlog, OpenBacklog, open_backlog
from ._dead import DeadLetters, Letter, Waiting

__all__ = ["Backlog", "DeadLetters", "Letter", "Level", "OpenBacklog", "Waiting", "open_backlog"]
