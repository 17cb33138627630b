"""joblib's contract: the backend, its runs, and what registers it."""
