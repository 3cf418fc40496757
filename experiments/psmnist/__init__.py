"""Table of permuted sequential MNIST: every model with its recipe, over seeds."""
