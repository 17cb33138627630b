"""The worker program: a daemon that runs tasks in slots, processes of its own that may die at any moment."""
