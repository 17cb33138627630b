"""A fuzzer of what comes after the handshake; `python -m tests.fuzz --help` tells how it is run."""
