"""What delivery costs, as ratios to the least that Python can do.  ``python -m tests.benchmarks --help``."""
