"""Several models on the same drives: scores, cost, and the frames on which they differ most."""
