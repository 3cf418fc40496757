"""Kills of training and of experiments, and disks that fill up: what is lost."""
