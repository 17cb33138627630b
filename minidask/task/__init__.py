"""What a task's own code meets: its context, its batch, its channels to the caller, the caller's modules."""
