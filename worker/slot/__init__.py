"""A slot: a program of its own, one task at a time in a blocking loop; no asyncio, and nothing else of the worker's."""
