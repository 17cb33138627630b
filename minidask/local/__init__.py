"""A cluster on this machine: the only room that knows scheduler and worker both."""
