"""The processes of a run: how they are started, know of each other, share a model, and end."""
