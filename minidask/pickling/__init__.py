"""Objects to payloads and back: what is sent once, what is shared, what each task has of its own."""
