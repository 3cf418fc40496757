"""Real series: recordings of several lengths to classify, and sunspots to forecast."""
