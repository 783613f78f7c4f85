"""Training what has been trained: from where, which parts, and through what."""
