"""The papers' experiments, each one command that leaves its figures in a file."""
