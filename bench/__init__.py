"""Benchmarks of minidask beside its peers: `python -m bench`, and `python -m bench compare A.json B.json`."""
