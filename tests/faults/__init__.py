"""Faults that are injected while a search runs: `python -m tests.faults`."""
