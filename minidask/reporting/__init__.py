"""What a run was like, after it: figures, and what held it back."""
