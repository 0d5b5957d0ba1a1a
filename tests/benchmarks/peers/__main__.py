"""``python -m tests.benchmarks.peers``: the table of peers alone."""

from .run import main

if __name__ == "__main__":
    main()
