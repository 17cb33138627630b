"""Puts the daemons of a cluster on machines, by engines that exist. It places programs, and owns no state of jobs."""
