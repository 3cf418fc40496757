"""Benchmarks: ``python -m benchmarks`` runs them, ``python -m benchmarks.tables`` prints them."""
