"""Other servers' APIs over the same core: each is translated into a chat completion, and its answer back."""
