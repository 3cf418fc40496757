"""Benchmarks: ``python -m benchmarks`` times the cases; the other commands are modules."""
