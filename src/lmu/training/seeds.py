"""Seeds derived from a run's seed."""

import random


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Derive a seed for one purpose, such as ``("dropout", epoch, rank)``, equal on every machine.

    With a seed for each epoch, rather than one generator for all, a resumed run repeats the
    uninterrupted one on any device and any number of processes.
    """
    return random.Random(f"{seed} {purpose}").getrandbits(63)
