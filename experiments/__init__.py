"""The papers' experiments, and others: a folder each, run by ``python -m experiments NAME``."""
