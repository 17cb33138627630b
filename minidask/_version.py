"""The version of minidask, where even the daemons can read it without loading more."""

__version__ = "0.1.0"
