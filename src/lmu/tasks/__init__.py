"""Data and metric of each experiment."""
