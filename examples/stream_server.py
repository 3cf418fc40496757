"""Serve thousands of independent streams from one batched state, over TCP.

    python examples/stream_server.py --demo
    python examples/stream_server.py --model runs/psmnist/<time> --port 7000    # and, elsewhere:
    nc localhost 7000

A connection is a stream. A line from the client is a JSON list, one sample: ``[0.5]``; or
``"reset"``. Each sample is answered by a line with a JSON list, and an invalid line by
``{"error": "..."}``, in the order of the lines. Disconnecting ends the stream.

Clients are served in turns, a line of each and then a step of all that have a sample, so that a
client that floods the server gets no more of it than others. Its limits, with an error for clients
that exceed them:

- ``--capacity`` streams at a time; further clients are refused at once.
- ``--depth`` samples of a stream wait; then it is not read until one is answered. Nor is a client
  read that does not read its answers: TCP blocks it, and memory stays bounded in both directions.
- ``--idle`` seconds without a line, or with answers unread, and the client is disconnected.
- A line may have 4 KiB, or 32 bytes for each number of a sample if that is more; a longer one ends
  the connection.

There are no accounts, no encryption and no limit of connections per host: put a proxy in front if
clients are not trusted.
"""

import argparse
import asyncio
import contextlib
import json
import math
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lmu import LMUFFT, Stream

UNREAD = 2**20  # bytes: a client with more unread answers is disconnected
MOST = 2**16  # streams at a time, if the system allows so many connections


class RefusedError(ValueError):
    """A client's request is refused; nothing has changed."""


class StreamServer:
    """Independent streams in the rows of one :class:`lmu.Stream`.

    The capacity is fixed, so that memory and the time of a tick are known from the start, and
    clients beyond it are refused at once. Rows are used again, ids are not.

    Args:
        layer: A layer that :class:`lmu.Stream` takes.
        capacity: Largest number of streams.
        depth: Largest number of waiting samples of a stream.
    """

    def __init__(self, layer: Any, capacity: int = 1024, depth: int = 8) -> None:
        self.stream, self.capacity, self.depth = Stream(layer, capacity), capacity, depth
        like = next(layer.parameters())
        # The queue of each row is a ring buffer, on the CPU, where samples arrive.
        self._queue = torch.zeros(depth, capacity, layer.input_size, dtype=like.dtype)
        self._oldest = torch.zeros(capacity, dtype=torch.long)
        self._waiting = torch.zeros(capacity, dtype=torch.long)
        self._ids = torch.full((capacity,), -1)
        self._free = list(range(capacity))[::-1]
        self._device, self._joined = like.device, 0

    def __len__(self) -> int:
        return self.capacity - len(self._free)

    def join(self) -> int:
        """Begin a stream and return its id."""
        if not self._free:
            raise RefusedError(f"all {self.capacity} streams are taken: try again later")
        row = self._free.pop()
        self._ids[row] = id_ = self._joined * self.capacity + row
        self._joined += 1
        self.stream.reset(row)
        return id_

    def leave(self, id_: int) -> None:
        """End a stream; samples in its queue are dropped."""
        row = int(self._rows(torch.tensor([id_])))
        self._ids[row], self._waiting[row] = -1, 0
        self._free.append(row)

    def reset(self, id_: int) -> None:
        """Reset a stream; samples in its queue are dropped."""
        row = int(self._rows(torch.tensor([id_])))
        self._waiting[row] = 0
        self.stream.reset(row)

    def push(self, ids: Tensor | Sequence[int], samples: Tensor | Sequence[Any]) -> None:
        """Queue samples (streams, input_size), one for each of ``ids`` (streams,): all or none."""
        rows = self._rows(torch.as_tensor(ids, dtype=torch.long))
        x = torch.as_tensor(samples, dtype=self._queue.dtype)
        if x.shape != (shape := (len(rows), self._queue.shape[2])):
            raise RefusedError(f"the samples must have the shape {shape}, got {tuple(x.shape)}")
        # A finite sum has finite terms; an infinite one may be an overflow, so check again.
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
        """Advance all streams with a waiting sample one step; return their ids and outputs."""
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


@dataclass
class Client:
    """A connection: its writer, the time of its last line, the number of its waiting samples."""

    writer: asyncio.StreamWriter
    heard: float
    waiting: int = 0
    fresh: bool = True  # no sample since it began or was reset
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    async def until_waiting(self, most: int) -> None:
        """Wait until at most ``most`` samples wait."""
        while self.waiting > most:
            self.answered.clear()
            await self.answered.wait()


class Front:
    """The TCP side: lines in, lines out, with the limits above.

    Args:
        server: Server of the clients' streams.
        read_out: Computes answers from the layer's hidden states.
        idle: Seconds after which a silent client is disconnected.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        server: StreamServer,
        read_out: Callable[[Tensor], Tensor],
        idle: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.server, self.read_out, self.idle, self.clock = server, read_out, idle, clock
        self.clients: dict[int, Client] = {}
        self.work = asyncio.Event()
        self.longest = max(2**12, 32 * server.stream.input_size)  # bytes of a line

    async def serve(self, host: str, port: int, ready: asyncio.Future[int] | None = None) -> None:
        """Serve until cancelled; ``ready`` gets the port."""
        listener = await asyncio.start_server(self.talk, host, port, limit=self.longest)
        for listening in listener.sockets:  # connections inherit the small receive buffer
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.longest)
        sweeping = asyncio.create_task(self.keep_sweeping())
        if ready is not None:
            ready.set_result(listener.sockets[0].getsockname()[1])
        try:
            while True:
                await self.work.wait()
                self.tick()
                await asyncio.sleep(0)  # the loop reads lines, which are the next batch
        finally:
            sweeping.cancel()
            listener.close()
            for client in self.clients.values():
                client.writer.close()

    async def keep_sweeping(self) -> None:
        """Sweep several times within the time that a client may be silent."""
        while True:
            await asyncio.sleep(min(self.idle / 4, 60))
            self.sweep()

    def sweep(self) -> None:
        """Disconnect clients that were silent for too long."""
        now = self.clock()
        for client in self.clients.values():
            if now - client.heard <= self.idle:
                continue
            if client.writer.transport.get_write_buffer_size():  # it does not read either
                client.writer.transport.abort()
            else:
                say(client.writer, {"error": f"no line for {self.idle:g} s: connect again"})
                client.writer.close()

    def tick(self) -> None:
        """Advance all streams with a sample one step, and send the answers."""
        ids, h = self.server.tick()
        if not len(ids):
            self.work.clear()
            return
        with torch.no_grad():
            outputs = self.read_out(h).tolist()
        for id_, y in zip(ids.tolist(), outputs, strict=True):
            client = self.clients[id_]
            client.waiting -= 1
            client.answered.set()
            if client.writer.is_closing():
                continue
            say(client.writer, y)
            if client.writer.transport.get_write_buffer_size() > UNREAD:
                client.writer.transport.abort()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client from its connection to its end."""
        try:
            id_ = self.server.join()
        except RefusedError as refusal:
            say(writer, {"error": str(refusal)})
            writer.close()
            return
        client = self.clients[id_] = Client(writer, self.clock())
        try:
            with contextlib.suppress(ConnectionError):
                while line := await self.line(client, reader):
                    await self.take(id_, client, line)
                    await writer.drain()  # a client that does not read is not read
                    await asyncio.sleep(0)  # the turn of the others
                await client.until_waiting(0)
        finally:
            del self.clients[id_]
            self.server.leave(id_)
            writer.close()

    async def line(self, client: Client, reader: asyncio.StreamReader) -> bytes:
        """Read the client's next line, empty at its end; an unfinished line is dropped."""
        try:
            line = await reader.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError:
            await client.until_waiting(0)
            say(client.writer, {"error": f"a line may have {self.longest} bytes at the most"})
            return b""
        client.heard = self.clock()
        return line

    async def take(self, id_: int, client: Client, line: bytes) -> None:
        """Execute a line when there is room, or answer with an error."""
        try:
            sample = parse(line)
            await client.until_waiting(0 if sample is None else self.server.depth - 1)
            if sample is not None:
                self.server.push([id_], [sample])
            elif not client.fresh:
                self.server.reset(id_)
        except RefusedError as refusal:
            await client.until_waiting(0)  # answers keep the order of the lines
            say(client.writer, {"error": str(refusal)})
            return
        client.fresh = sample is None
        if sample is not None:
            client.waiting += 1
            self.work.set()


def parse(line: bytes) -> list[float] | None:
    """Return the sample in a line; None for a reset."""
    try:
        sample = json.loads(line)
        if sample == "reset":
            return None
        if not isinstance(sample, list) or any(type(v) not in (int, float) for v in sample):
            raise TypeError
        return [float(v) for v in sample]
    except (ValueError, TypeError, OverflowError, RecursionError):
        raise RefusedError('a line must be a list of numbers, as [0.5], or "reset"') from None


def say(writer: asyncio.StreamWriter, content: Any) -> None:
    """Write a line of JSON."""
    writer.write(json.dumps(content).encode() + b"\n")


async def client(port: int, x: Tensor, ahead: int = 4) -> Tensor:
    """Send a sequence (time, input_size), ``ahead`` samples before their answers; return these."""
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
    """Load a classifier that ``lmu train psmnist`` trained."""
    from pathlib import Path

    from lmu.tasks.psmnist.recipe import load_classifier

    return load_classifier(Path(path)).model()


def whole(least: int, most: int) -> Callable[[str], int]:
    """Return a parser of a whole number in bounds, for the command line."""

    def number(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must lie in {least} to {most:,}, got {text}")
        return int(text)

    return number


def seconds(text: str) -> float:
    """Parse a time, for the command line; inf is allowed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be a positive number of seconds, got {text}")
    return value


async def serve(front: Front, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[int] = loop.create_future()
    serving = asyncio.create_task(front.serve(host, port, ready))
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C raises
            loop.add_signal_handler(number, serving.cancel)
    await asyncio.wait([ready, serving], return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        print(f"serving {front.server.capacity} streams on {host}:{ready.result()}", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
    print("stopped", flush=True)


def options() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--demo", action="store_true", help="serve clients of its own, and check")
    mode.add_argument("--model", help="a run of lmu train psmnist; the answers are its logits")
    parser.add_argument("--host", default="localhost")
    parser.add_argument(
        "--port", type=whole(0, 65535), default=7000, help="0: one that is free (default: 7000)"
    )
    parser.add_argument(
        "--capacity", type=whole(1, MOST), default=1024, help="streams at a time (default: 1024)"
    )
    parser.add_argument(
        "--depth", type=whole(1, 1024), default=8, help="samples of each that wait (default: 8)"
    )
    parser.add_argument(
        "--idle", type=seconds, default=300.0, help="seconds of silence allowed (default: 300)"
    )
    return parser


def main() -> None:
    """Serve a model, or run the demo."""
    parser = options()
    args = parser.parse_args()
    if args.demo:
        asyncio.run(demo())
        return
    try:
        model = load(args.model)
    except ValueError as error:  # no checkpoint, or not one of lmu train
        parser.error(str(error))
    server = StreamServer(model.layer, args.capacity, args.depth)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(Front(server, model.classifier, args.idle), args.host, args.port))
    except OSError as error:  # the port is taken or not permitted
        parser.error(f"cannot listen on {args.host}:{args.port}: {error}")


if __name__ == "__main__":
    main()
