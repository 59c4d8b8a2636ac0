"""Training: the step, its graph, and the run around them."""
