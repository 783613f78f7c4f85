"""The Hugging Face Hub by way of its own client: what comes down, what is listed, and what is asked of it."""
