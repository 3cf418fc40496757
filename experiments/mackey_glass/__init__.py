"""Forecasts of a chaotic series: Voelker et al., NeurIPS 2019, section 3.3, as corrected."""
