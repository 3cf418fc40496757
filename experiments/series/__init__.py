"""Real series: classification of recordings of several lengths, and forecasts of sunspots."""
