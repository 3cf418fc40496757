"""Serve thousands of independent streams from one batched state, over TCP.

    python examples/stream_server.py --demo
    python examples/stream_server.py --model runs/psmnist/<time> --port 7000    # and, elsewhere:
    nc localhost 7000

A connection is a stream. A line from the client is a JSON list, one sample: ``[0.5]``; or
``"reset"``. The answer to each sample is a line with a JSON list, in the order of the samples, or
``{"error": "..."}``, and then the sample was not taken. Who disconnects, leaves.
"""

import argparse
import asyncio
import contextlib
import json
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lmu import LMUFFT, Stream

UNREAD = 2**20  # bytes: a client that leaves more answers unread is sent away


class RefusedError(ValueError):
    """What a client asked for cannot be done; nothing has changed."""


class StreamServer:
    """Independent streams in the rows of one :class:`lmu.Stream`.

    The capacity is fixed: memory and the time of a tick are then known from the start, and who
    finds no room is told so at once. An id is never given twice, though rows are.

    Args:
        layer: What :class:`lmu.Stream` takes.
        capacity: Number of streams that there is room for.
        depth: Number of samples of a stream that may wait.
    """

    def __init__(self, layer: Any, capacity: int = 1024, depth: int = 8) -> None:
        self.stream, self.capacity, self.depth = Stream(layer, capacity), capacity, depth
        like = next(layer.parameters())
        # The queue of each row is a ring; on the CPU, as whoever pushes is.
        self._queue = torch.zeros(depth, capacity, layer.input_size, dtype=like.dtype)
        self._oldest = torch.zeros(capacity, dtype=torch.long)
        self._waiting = torch.zeros(capacity, dtype=torch.long)
        self._ids = torch.full((capacity,), -1)
        self._free = list(range(capacity))[::-1]
        self._device, self._joined = like.device, 0

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def join(self) -> int:
        """Begin a stream; its id."""
        if not self._free:
            raise RefusedError(f"all {self.capacity} streams are taken: try again later")
        row = self._free.pop()
        self._ids[row] = id_ = self._joined * self.capacity + row
        self._joined += 1
        self.stream.reset(row)
        return id_

    def leave(self, id_: int) -> None:
        """End a stream; what waits in its queue is dropped."""
        row = int(self._rows(torch.tensor([id_])))
        self._ids[row], self._waiting[row] = -1, 0
        self._free.append(row)

    def reset(self, id_: int) -> None:
        """Begin a stream anew; what waits in its queue is dropped."""
        row = int(self._rows(torch.tensor([id_])))
        self._waiting[row] = 0
        self.stream.reset(row)

    def push(self, ids: Tensor | Sequence[int], samples: Tensor | Sequence[Any]) -> None:
        """Give some streams a sample each, (streams,) and (streams, input_size): all or none."""
        rows = self._rows(torch.as_tensor(ids, dtype=torch.long))
        x = torch.as_tensor(samples, dtype=self._queue.dtype)
        if x.shape != (shape := (len(rows), self._queue.shape[2])):
            raise RefusedError(f"the samples must have the shape {shape}, got {tuple(x.shape)}")
        # A sum is finite only if all are, or where it overflows: then look again.
        if not math.isfinite(x.sum()) and not x.isfinite().all():
            raise RefusedError(f"samples must be finite numbers of {x.dtype}")
        waiting = self._waiting[rows]
        if len(rows) and (longest := int(waiting.max())) >= self.depth:
            raise RefusedError(
                f"{longest} samples wait already: read the answers before sending more"
            )
        if len(rows) > 1 and len(rows.unique()) != len(rows):
            raise RefusedError("a push takes one sample of a stream: push the next one after it")
        self._queue[(self._oldest[rows] + waiting) % self.depth, rows] = x
        self._waiting[rows] = waiting + 1

    def tick(self) -> tuple[Tensor, Tensor]:
        """Advance, in one step, all streams with a sample waiting: their ids and their outputs."""
        rows = self._waiting.nonzero().view(-1)
        oldest = self._oldest[rows]
        x = self._queue[oldest, rows].to(self._device)
        y = self.stream(x, streams=None if len(rows) == self.capacity else rows)
        self._oldest[rows] = (oldest + 1) % self.depth
        self._waiting[rows] -= 1
        return self._ids[rows], y

    def _rows(self, ids: Tensor) -> Tensor:
        rows = ids % self.capacity
        wrong = (self._ids[rows] != ids) | (ids < 0)  # the id of a free row is below zero
        if wrong.any():
            raise RefusedError(f"no such stream: {ids[wrong].tolist()}")
        return rows


class Front:
    """The TCP side: lines in, lines out; see above."""

    def __init__(self, server: StreamServer, read_out: Callable[[Tensor], Tensor]) -> None:
        self.server, self.read_out = server, read_out
        self.clients: dict[int, asyncio.StreamWriter] = {}
        self.work = asyncio.Event()

    async def serve(self, host: str, port: int, ready: asyncio.Future[int] | None = None) -> None:
        """Serve until cancelled; ``ready`` is told the port."""
        listener = await asyncio.start_server(self.talk, host, port)
        if ready is not None:
            ready.set_result(listener.sockets[0].getsockname()[1])
        try:
            while True:
                await self.work.wait()
                self.tick()
                await asyncio.sleep(0)  # the loop reads what has come: that is the next batch
        finally:
            listener.close()
            for writer in self.clients.values():
                writer.close()

    def tick(self) -> None:
        """One step of all streams with a sample, and its answers."""
        ids, h = self.server.tick()
        if not len(ids):
            self.work.clear()
            return
        with torch.no_grad():
            outputs = self.read_out(h).tolist()
        for id_, y in zip(ids.tolist(), outputs, strict=True):
            writer = self.clients[id_]
            say(writer, y)
            if writer.transport.get_write_buffer_size() > UNREAD:
                writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """All that one client says, from its joining to its leaving."""
        try:
            id_ = self.server.join()
        except RefusedError as refusal:
            say(writer, {"error": str(refusal)})
            writer.close()
            return
        self.clients[id_] = writer
        try:
            # Dead connections and lines beyond asyncio's limit of 64 KiB end it too.
            with contextlib.suppress(ConnectionError, ValueError):
                while line := await reader.readline():
                    try:
                        self.take(id_, line)
                    except RefusedError as refusal:
                        say(writer, {"error": str(refusal)})
                        await writer.drain()
        finally:
            del self.clients[id_]
            self.server.leave(id_)
            writer.close()

    def take(self, id_: int, line: bytes) -> None:
        """Do what a line says."""
        try:
            said = json.loads(line)
            if said == "reset":
                self.server.reset(id_)
                return
            if not isinstance(said, list) or any(type(v) not in (int, float) for v in said):
                raise TypeError
            sample = [float(v) for v in said]
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise RefusedError('a line must be a list of numbers, as [0.5], or "reset"') from None
        self.server.push([id_], [sample])
        self.work.set()


def say(writer: asyncio.StreamWriter, what: Any) -> None:
    """Write a line."""
    writer.write(json.dumps(what).encode() + b"\n")


async def client(port: int, x: Tensor, ahead: int = 4) -> Tensor:
    """The answers to a sequence (time, input_size), with some samples on the way at a time."""
    reader, writer = await asyncio.open_connection("localhost", port)
    answers: list[list[float]] = []
    for t, sample in enumerate(x.tolist()):
        say(writer, sample)
        if t >= ahead:
            answers.append(json.loads(await reader.readline()))
    while len(answers) < len(x):
        answers.append(json.loads(await reader.readline()))
    writer.close()
    await writer.wait_closed()
    return torch.tensor(answers)


async def demo(clients: int = 50, length: int = 200) -> float:
    """Serve some clients at once and compare with the layer over the whole sequence."""
    layer = LMUFFT(input_size=1, hidden_size=64, memory_size=64, seq_len=length, theta=100)
    x = torch.randn(clients, length, 1)
    ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    front = Front(StreamServer(layer, clients), lambda h: h)
    serving = asyncio.create_task(front.serve("localhost", 0, ready))
    start = time.perf_counter()
    port = await ready
    y = torch.stack(await asyncio.gather(*(client(port, x_i) for x_i in x)))
    seconds = time.perf_counter() - start
    serving.cancel()
    await asyncio.wait([serving])
    with torch.no_grad():
        error = (y - layer(x)[0]).abs().max().item()
    print(f"{clients} clients, {length} samples each: {clients * length / seconds:,.0f} a second")
    print(f"largest difference from the layer over the whole sequences: {error:.1e}")
    return error


def load(path: str) -> Any:
    """The classifier that ``lmu train psmnist`` trained."""
    from pathlib import Path

    from lmu.tasks.psmnist import build_model
    from lmu.training.checkpoint import BEST, LAST, load_checkpoint, resolve_checkpoint

    loaded = load_checkpoint(resolve_checkpoint(Path(path), (BEST, LAST)))
    model = build_model(**loaded.config.model_arguments())
    model.load_state_dict({k.removeprefix("model."): v for k, v in loaded.state_dict.items()})
    return model.eval()


def main() -> None:
    """Serve a model, or show how."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--demo", action="store_true", help="serve clients of its own, and check")
    what.add_argument("--model", help="a run of lmu train psmnist; the answers are its logits")
    parser.add_argument("--host", default="localhost")
    parser.add_argument("--port", type=int, default=7000)
    parser.add_argument("--capacity", type=int, default=1024, help="number of streams at a time")
    options = parser.parse_args()
    if options.demo:
        asyncio.run(demo())
        return
    try:
        model = load(options.model)
    except ValueError as error:  # no checkpoint, or not one of lmu train
        parser.error(str(error))
    front = Front(StreamServer(model.layer, options.capacity), model.classifier)
    print(f"serving {options.capacity} streams on {options.host}:{options.port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(front.serve(options.host, options.port))


if __name__ == "__main__":
    main()
