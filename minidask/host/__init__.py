"""This machine and this process: cores, memory, folders, locks, signals, versions, and what users pass."""
