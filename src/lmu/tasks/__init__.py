"""Tasks that the commands train: their data, models and recipes."""
