"""The share of its window that a memory can tell: Voelker et al., NeurIPS 2019, section 3.1."""
