"""The replay buffer, and its files on disk."""
