"""Capacity of a memory, by decoding its window: Voelker et al., NeurIPS 2019, section 3.1."""
