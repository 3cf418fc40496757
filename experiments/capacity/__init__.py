"""How much of its window a memory can tell: Voelker et al., NeurIPS 2019, section 3.1."""
