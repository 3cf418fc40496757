"""Check and time everything on a GPU in one run: ``python -m benchmarks.gpu``."""
