"""What delivery costs, as ratios to the least that Python can do.  ``python -m tests.benchmarks --help``."""

import dataclasses
import os

from atom_sansio import Options

# What is measured has the options that its module gives it; what waits in a backlog of the user's would go to a sink.
for _option in dataclasses.fields(Options):
    os.environ.pop(f"ATOM_{_option.name.upper()}", None)
