"""Checkpoints to the Hugging Face Hub: a folder becomes the content of a branch by one commit."""

from zoo_core.publishing.pushing import Push, push, push_to_hub

__all__ = ["Push", "push", "push_to_hub"]
