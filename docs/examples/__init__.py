"""The demo's events, and the drivers that the documentation shows."""
