"""Small changes to the shipped code that the tests must notice: ``python -m tests.mutation``."""
