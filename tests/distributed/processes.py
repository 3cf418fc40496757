"""A few processes that work together, kept for all tests: to start one takes seconds."""

import faulthandler
import os
import pickle
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.limits import HANG


class Processes:
    """Run a function in several processes, each of which is given their group."""

    def __init__(self, size: int, folder: Path) -> None:
        context = get_context("spawn")
        self.pipes, self.workers = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            worker = context.Process(target=serve, args=(rank, size, folder, theirs), daemon=True)
            worker.start()
            self.pipes.append(ours)
            self.workers.append(worker)

    def run(self, size: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        """What each of the first so many processes returns."""
        for pipe in self.pipes:
            pipe.send_bytes(pickle.dumps((size, function, args, kwargs)))
        answers = []
        for rank, pipe in enumerate(self.pipes):
            if not pipe.poll(HANG):
                self.close()
                raise TimeoutError(f"process {rank} does not answer")
            answers.append(pickle.loads(pipe.recv_bytes()))
        for rank, (fault, _) in enumerate(answers):
            if fault is not None:
                raise RuntimeError(f"in process {rank}: {fault}")
        return [result for _, result in answers[:size]]

    def close(self) -> None:
        """End them all."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.join()


def serve(rank: int, size: int, folder: Path, pipe: Connection) -> None:
    """Run what is asked for, until the end."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=size)
    groups = {n: dist.new_group(list(range(n))) for n in range(1, size + 1)}
    while True:
        try:
            members, function, args, kwargs = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        fault = result = None
        faulthandler.dump_traceback_later(HANG - 10)  # says where, if it hangs
        try:
            if rank < members:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    result = function(groups[members], *args, **kwargs)
        except Exception:
            fault = traceback.format_exc()
        faulthandler.cancel_dump_traceback_later()
        pipe.send_bytes(pickle.dumps((fault, result)))
