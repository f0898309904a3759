"""One module for each framework: put the rollout's headers and sampling parameters on inference calls."""
