"""What a cluster does, in a browser: a program of its own that is a client like any other."""
