"""The client: turns calls into frames, and frames into futures."""
