"""A run as it lies on disk."""
