"""Experiments of the papers and others, a folder each: ``python -m experiments NAME``."""
