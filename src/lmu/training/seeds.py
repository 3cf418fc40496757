"""Seeds of everything random in a run, each derived from the run's seed."""

import random


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed for one purpose, such as ``("dropout", epoch, rank)``: the same on every machine.

    A seed for each epoch, rather than a generator that goes on, lets a resumed run repeat the
    uninterrupted one on any device and any number of processes.
    """
    return random.Random(f"{seed} {purpose}").getrandbits(63)
