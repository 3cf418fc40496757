"""Training time of the parallel LMU against recurrences: Chilkuri & Eliasmith, ICML 2021."""
