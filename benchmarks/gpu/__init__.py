"""Everything there is to know about a card, in one run: ``python -m benchmarks.gpu``."""
