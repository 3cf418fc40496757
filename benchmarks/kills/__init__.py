"""Losses by kills of training and of experiments, and by disks that fill up."""
