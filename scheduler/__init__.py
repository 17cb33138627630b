"""The scheduler program: who runs what. It never unpickles a user's bytes."""
