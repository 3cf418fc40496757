"""Permuted sequential MNIST: a digit read pixel by pixel, in a fixed random order."""
