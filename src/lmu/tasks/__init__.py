"""Tasks of ``lmu train``: their data, models and recipes."""
