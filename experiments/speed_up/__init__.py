"""Training times of the parallel LMU and of recurrences: Chilkuri & Eliasmith, ICML 2021."""
