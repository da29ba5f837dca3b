"""Results are data: one immutable record a run."""
