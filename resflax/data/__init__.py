"""Data sets as arrays, the order they are seen in, and the pure functions that turn ids into training batches."""
