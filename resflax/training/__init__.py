"""State, steps, loop, evaluation, checkpoints: the machinery of a run."""
