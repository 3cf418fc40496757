"""A chaotic series, 15 steps ahead: Voelker et al., NeurIPS 2019, section 3.3, as corrected."""
