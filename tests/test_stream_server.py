"""The server of streams in examples: its logic, and its TCP side with clients."""

import asyncio
import contextlib
import gc
import json
import math
import random
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import measure, streams
from benchmarks.measure import resident
from docs.figures.tables import streams as tables
from examples import stream_server
from examples.stream_server import Front, RefusedError, StreamServer, client, demo
from lmu import LMU, LMUFFT
from tests.limits import HANG

LAYERS: dict[str, Callable[[], Any]] = {
    "LMU": lambda: LMU(1, 7, 6, 12.0),
    "LMUFFT": lambda: LMUFFT(1, 7, 6, 30, 12.0),
}


@pytest.fixture(params=LAYERS)
def layer(request) -> Any:
    torch.manual_seed(0)
    return LAYERS[request.param]()


@torch.no_grad()
def alone(layer: Any, x: Any) -> Tensor:
    """The outputs of a sequence (time, 1)."""
    return layer(torch.as_tensor(x, dtype=torch.float32).view(1, -1, 1))[0][0]


def test_streams_that_come_and_go_are_independent(layer):
    server, rng = StreamServer(layer, 6, depth=3), random.Random(0)
    given: dict[int, list[float]] = {}
    taken: dict[int, int] = {}
    answers: dict[int, list[Tensor]] = {}
    checked = 0

    def begin(id_: int) -> None:
        given[id_], answers[id_] = [], []

    def end(id_: int) -> int:
        steps = len(answers[id_])
        if steps:
            right = alone(layer, given[id_][:steps])
            torch.testing.assert_close(torch.stack(answers[id_]), right, rtol=1e-4, atol=1e-5)
        return steps

    for _ in range(600):
        what = rng.random()
        if what < 0.1 and len(server) < 6:
            id_ = server.join()
            assert id_ not in taken  # never given before
            taken[id_] = 1
            begin(id_)
        elif given and what < 0.15:
            id_ = rng.choice(list(given))
            server.leave(id_)
            checked += end(id_)
            del given[id_]
        elif given and what < 0.2:
            id_ = rng.choice(list(given))
            server.reset(id_)
            checked += end(id_)
            begin(id_)
        elif given and what < 0.6:
            ids = rng.sample(list(given), rng.randint(1, len(given)))
            ids = [i for i in ids if len(given[i]) - len(answers[i]) < 3]
            x = [rng.random() for _ in ids]
            server.push(ids, torch.tensor(x).view(-1, 1))
            for id_, x_i in zip(ids, x, strict=True):
                given[id_].append(x_i)
        else:
            waiting = {i for i in given if len(given[i]) > len(answers[i])}
            ids, y = server.tick()
            assert set(ids.tolist()) == waiting
            for id_, y_i in zip(ids.tolist(), y, strict=True):
                answers[id_].append(y_i)
        assert len(server) == len(given)
    checked += sum(map(end, given))
    assert checked > 400


def test_what_cannot_be_done_is_refused_and_changes_nothing(layer):
    server = StreamServer(layer, 3, depth=2)
    one, two = server.join(), server.join()
    gone = server.join()
    server.leave(gone)
    server.push([one], [[0.1]])
    for ids, x, wrong in (
        ([one, gone], [[0.2], [0.2]], rf"no such stream: \[{gone}\]"),
        ([-1], [[0.2]], r"no such stream: \[-1\]"),
        ([one, two], [[0.2], [float("nan")]], "finite numbers of torch.float32"),
        ([one, two], [[0.2], [1e300]], "finite"),
        ([one, two], [[0.2]], r"the shape \(2, 1\), got \(1, 1\)"),
        ([one], [[0.2, 0.3]], r"the shape \(1, 1\), got \(1, 2\)"),
        ([one, one], [[0.2], [0.2]], "one sample of a stream"),
    ):
        with pytest.raises(RefusedError, match=wrong):
            server.push(ids, x)
    for act in (server.leave, server.reset):
        with pytest.raises(RefusedError, match=rf"no such stream: \[{gone}\]"):
            act(gone)
    server.push([one], [[0.3]])
    with pytest.raises(RefusedError, match="2 samples wait already: read the answers"):
        server.push([two, one], [[0.5], [0.5]])
    outputs = [server.tick() for _ in range(3)]
    assert [ids.tolist() for ids, _ in outputs] == [[one], [one], []]
    y = torch.cat([y for _, y in outputs])
    torch.testing.assert_close(y, alone(layer, [0.1, 0.3]))


def test_large_finite_samples_are_taken(layer):
    server = StreamServer(layer, 2)
    ids = [server.join(), server.join()]
    server.push(ids, [[3e38], [3e38]])  # whose sum is not finite
    assert len(server.tick()[0]) == 2


def test_a_full_server_says_so_and_room_is_used_again(layer):
    server = StreamServer(layer, 2)
    first, second = server.join(), server.join()
    with pytest.raises(RefusedError, match="all 2 streams are taken"):
        server.join()
    server.push([first, second], [[0.5], [0.5]])
    server.leave(first)
    third = server.join()
    assert third not in (first, second)
    assert server.tick()[0].tolist() == [second]  # what waited of the first is gone with it
    server.push([third], [[0.7]])
    torch.testing.assert_close(server.tick()[1], alone(layer, [0.7]))


def test_who_overflows_spoils_nobody(layer):
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(1e3)  # beyond what float32 holds, with such a sample
    server = StreamServer(layer, 2)
    one, other = server.join(), server.join()
    outputs, x = [], [[0.1 * t] for t in range(6)]
    for t in range(3):
        server.push([one, other], [[3e38], x[t]])
        outputs.append(server.tick()[1])
    assert not torch.cat([y[0] for y in outputs] + [server.stream.state[1][0]]).isfinite().all()
    server.leave(one)
    one = server.join()
    for t in range(3, 6):
        server.push([one, other], [x[t], x[t]])
        outputs.append(server.tick()[1])
    torch.testing.assert_close(
        torch.stack([y[1] for y in outputs]), alone(layer, x), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        torch.stack([y[0] for y in outputs[3:]]), alone(layer, x[3:]), rtol=1e-4, atol=1e-5
    )


def test_nothing_grows(layer):
    server, rng = StreamServer(layer, 16, depth=2), random.Random(0)
    ids = [server.join() for _ in range(16)]
    x = torch.randn(16, 1)

    def ticks(number: int) -> tuple[int, int]:
        for t in range(number):
            server.leave(ids[i := rng.randrange(16)])
            ids[i] = server.join()
            server.reset(ids[rng.randrange(16)])
            server.push(ids[t % 8 :], x[t % 8 :])
            server.tick()
        gc.collect()
        return sum(type(o) is Tensor for o in gc.get_objects()), resident("VmRSS")

    tensors, before = ticks(500)
    more = ticks(3000)
    assert more[0] <= tensors
    assert more[1] - before < 2048  # KiB: less than a byte and a half of each stream and tick


# Over TCP.


def serving(
    layer: Any, talk: Callable[[int, Front], Awaitable[None]], **kwargs: Any
) -> StreamServer:
    """Serve while ``talk(port, front)`` runs, and return the server after all have left."""
    server = StreamServer(layer, **kwargs)

    async def both() -> None:
        front = Front(server, lambda h: h)
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(front.serve("localhost", 0, ready))
        await asyncio.wait([ready, task], return_when=asyncio.FIRST_COMPLETED)
        await talk(ready.result(), front)
        while len(server):  # a client that has gone is noticed when the loop comes to it
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(both(), HANG))
    return server


async def say(port: int, *lines: bytes, answers: int) -> list[Any]:
    """What a client is answered that says all its lines at once."""
    reader, writer = await asyncio.open_connection("localhost", port)
    writer.write(b"".join(line + b"\n" for line in lines))
    found = [json.loads(await reader.readline()) for _ in range(answers)]
    writer.close()
    await writer.wait_closed()
    return found


def test_clients_get_what_the_layer_gives(layer):
    x = torch.randn(3, 40, 1)

    async def talk(port: int, front: Front) -> None:
        y = await asyncio.gather(*(client(port, x_i) for x_i in x))
        with torch.no_grad():
            torch.testing.assert_close(torch.stack(y), layer(x)[0], rtol=1e-4, atol=1e-5)

    serving(layer, talk, capacity=3)


def test_wrong_lines_hurt_nobody_else(layer):
    wrong = [
        b"hello", b"[0.5", b"[true]", b'["a"]', b'{"a": 1}', b"0.5", b"", b"[" * 3000, b"\xff",
        b"[NaN]", b"[Infinity]", b"[1e300]", b"[1" + b"0" * 400 + b"]", b"[]", b"[1, 2]", b'"go"',
    ]  # fmt: skip
    x = torch.randn(60, 1)

    async def talk(port: int, front: Front) -> None:
        good, bad = await asyncio.gather(
            client(port, x), say(port, *wrong, b"[0.5]", answers=len(wrong) + 1)
        )
        torch.testing.assert_close(good, alone(layer, x), rtol=1e-4, atol=1e-5)
        assert all(set(answer) == {"error"} for answer in bad[:-1])
        torch.testing.assert_close(torch.tensor(bad[-1:]), alone(layer, [0.5]))

    serving(layer, talk, capacity=2)


def test_a_client_that_is_too_quick_waits(layer):
    async def talk(port: int, front: Front) -> None:
        found = await say(port, *[b"[0.5]", b"no"] * 5, b"[0.7]", answers=11)
        assert all("error" in answer for answer in found[1::2])  # in the order of the lines
        found = torch.tensor(found[::2])
        torch.testing.assert_close(found, alone(layer, [0.5] * 5 + [0.7]))

    serving(layer, talk, capacity=2, depth=2)


def test_a_stream_begins_anew(layer):
    async def talk(port: int, front: Front) -> None:
        reader, writer = await asyncio.open_connection("localhost", port)
        found = []
        for line in (b"[0.5]\n", b'"reset"\n[0.7]\n'):
            writer.write(line)
            found.append(json.loads(await reader.readline()))
        torch.testing.assert_close(
            torch.tensor(found), torch.cat([alone(layer, [0.5]), alone(layer, [0.7])])
        )
        writer.close()

    serving(layer, talk, capacity=1)


def test_a_full_server_sends_away(layer):
    async def talk(port: int, front: Front) -> None:
        _, writer = await asyncio.open_connection("localhost", port)
        while not front.clients:
            await asyncio.sleep(0)
        (answer,) = await say(port, answers=1)
        assert "all 1 streams are taken" in answer["error"]
        writer.close()

    serving(layer, talk, capacity=1)


def test_a_client_that_reads_no_answers_is_sent_away(layer, monkeypatch):
    monkeypatch.setattr(stream_server, "UNREAD", 2000)

    async def talk(port: int, front: Front) -> None:
        reader, writer = await asyncio.open_connection("localhost", port)
        while not front.clients:
            await asyncio.sleep(0)
        (theirs,) = [client.writer for client in front.clients.values()]
        x = torch.randn(30, 1)
        # The kernel's buffers take megabytes: stand in for full ones.
        monkeypatch.setattr(theirs.transport, "get_write_buffer_size", lambda: 2001, raising=False)
        writer.write(b"[0.5]\n")
        good = await client(port, x)
        torch.testing.assert_close(good, alone(layer, x), rtol=1e-4, atol=1e-5)
        assert not await reader.readline() or not await reader.readline()
        writer.close()

    serving(layer, talk, capacity=2)


def test_a_line_without_end_is_the_end(layer):
    async def talk(port: int, front: Front) -> None:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"1" * 200_000)
        with contextlib.suppress(ConnectionResetError):  # it closes with some of it unread
            assert b"4096 bytes at the most" in await reader.read()
        writer.close()

    serving(layer, talk, capacity=1)


def test_who_says_all_at_once_and_ends_is_answered(layer):
    async def talk(port: int, front: Front) -> None:
        reader, writer = await asyncio.open_connection("localhost", port)
        writer.write(b"[0.5]\n" * 20 + b"[0.7]")  # the last is cut off
        writer.write_eof()
        found = [json.loads(line) for line in (await reader.read()).splitlines()]
        torch.testing.assert_close(torch.tensor(found), alone(layer, [0.5] * 20))
        writer.close()

    serving(layer, talk, capacity=1, depth=2)


@pytest.mark.parametrize("line", [b"[0.5]\n", b"no sample\n", b'"reset"\n'])
@pytest.mark.parametrize("reads", [True, False])
def test_floods_starve_nobody(layer, line, reads):
    """Whatever eight clients flood the server with, one more gets as many answers as each."""
    answered = [0] * 8

    async def flood(port: int, i: int) -> None:
        reader, writer = await asyncio.open_connection("localhost", port)
        # So that what it has sent goes with it.
        theirs = writer.get_extra_info("socket")
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        async def read() -> None:
            while reads and await reader.readline():
                answered[i] += 1

        reading = asyncio.create_task(read())
        try:
            while True:
                writer.write(line * 2000)
                await writer.drain()
        finally:
            reading.cancel()
            writer.transport.abort()

    async def talk(port: int, front: Front) -> None:
        floods = [asyncio.create_task(flood(port, i)) for i in range(8)]
        while len(front.clients) < 8:
            await asyncio.sleep(0)
        x = torch.randn(300, 1)
        torch.testing.assert_close(await client(port, x), alone(layer, x), rtol=1e-4, atol=1e-5)
        for task in floods:
            task.cancel()
        await asyncio.wait(floods)
        # With four samples on the way at a time it has a turn of every two at the least.
        assert max(answered) < 2 * len(x) + 100

    serving(layer, talk, capacity=9)


def test_who_reads_nothing_is_not_read(layer):
    """What a client leaves unread, and what it sends, waits on its side."""

    async def talk(port: int, front: Front) -> None:
        _, writer = await asyncio.open_connection("localhost", port)
        while not front.clients:
            await asyncio.sleep(0)
        (theirs,) = front.clients.values()
        blocked, heard = 0, theirs.heard
        while blocked < 300:  # turns without a line, though there is more
            if writer.transport.get_write_buffer_size() < 2**20:
                writer.write(b"no sample\n" * 10_000)
            await asyncio.sleep(0.001)
            blocked, heard = (blocked + 1 if theirs.heard == heard else 0), theirs.heard
            assert theirs.writer.transport.get_write_buffer_size() < stream_server.UNREAD
        x = torch.randn(20, 1)
        torch.testing.assert_close(await client(port, x), alone(layer, x), rtol=1e-4, atol=1e-5)
        theirs.heard = -math.inf
        front.sweep()
        while front.clients:
            await asyncio.sleep(0)
        writer.transport.abort()

    serving(layer, talk, capacity=2)


def test_who_is_silent_for_too_long_gives_the_place_to_others(layer):
    now = 0.0

    async def talk(port: int, front: Front) -> None:
        nonlocal now
        front.clock = lambda: now
        silent, third = await asyncio.open_connection("localhost", port)
        partial, other = await asyncio.open_connection("localhost", port)
        other.write(b"[0.5")  # and no more: half a line is none
        spoken, writer = await asyncio.open_connection("localhost", port)
        while len(front.clients) < 3:
            await asyncio.sleep(0)
        for theirs in front.clients.values():
            theirs.heard = 0.0
        now = 200.0
        writer.write(b"[0.5]\n")
        assert await spoken.readline()
        front.sweep()
        assert len(front.clients) == 3
        now = 301.0
        front.sweep()
        for reader in (silent, partial):
            assert "no line for 300 s" in json.loads(await reader.read())["error"]
        writer.write(b"[0.5]\n")
        assert await spoken.readline()
        assert len(front.clients) == 1
        for one in (writer, other, third):
            one.close()

    serving(layer, talk, capacity=3)


def test_the_server_sweeps_by_itself(layer, monkeypatch):
    async def run() -> None:
        front = Front(StreamServer(layer, 1), lambda h: h, idle=0.01)
        ready: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(front.serve("localhost", 0, ready))
        reader, writer = await asyncio.open_connection("localhost", await ready)
        assert b"no line for 0.01 s" in await reader.read()
        writer.close()
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(run(), 600))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--port", "99999", "must lie in 0 to 65,535, got 99999"),
        ("--port", "-1", "must lie in 0"),
        ("--port", "http", "must lie in 0"),
        ("--capacity", "0", "must lie in 1 to 65,536, got 0"),
        ("--capacity", "9" * 30, "must lie in 1"),
        ("--depth", "0", "must lie in 1 to 1,024"),
        ("--idle", "0", "must be a positive number of seconds, got 0"),
        ("--idle", "nan", "must be a positive number"),
        ("--idle", "soon", "must be a positive number"),
        ("--model", "no/such/run", "does not exist"),
    ],
)
def test_wrong_options(option, value, says, monkeypatch, capsys):
    model = [] if option == "--model" else ["--model", "runs"]
    monkeypatch.setattr(sys, "argv", ["stream_server", *model, f"{option}={value}"])
    with pytest.raises(SystemExit) as end:
        stream_server.main()
    assert end.value.code == 2
    assert says in capsys.readouterr().err


SERVED = """
import sys
from lmu import LMUFFT
from lmu.models import SequenceClassifier
from examples import stream_server
stream_server.load = lambda path: SequenceClassifier(LMUFFT(1, 7, 6, 30, 12.0), 3).eval()
sys.argv = ["stream_server", "--model", "-", "--port", "PORT"]
stream_server.main()
"""


def start(port: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", SERVED.replace("PORT", port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_signals_end_it_and_a_port_has_one_server():
    server = start("0")
    assert server.stdout is not None
    port = server.stdout.readline().rsplit(":", 1)[1].strip()
    other = start(port)
    _, said = other.communicate(timeout=600)
    assert other.returncode == 2
    assert f"cannot listen on localhost:{port}" in said
    with socket.create_connection(("localhost", int(port))) as connection:
        connection.sendall(b"[0.5]\n")
        assert len(json.loads(connection.makefile().readline())) == 3
        server.send_signal(signal.SIGTERM)
        said = server.communicate(timeout=600)
    assert (server.returncode, *said) == (0, "stopped\n", "")


def test_demo(capsys):
    assert asyncio.run(demo(clients=3, length=30)) < 1e-4
    assert "3 clients, 30 samples each" in capsys.readouterr().out


# The figures.


def test_the_benchmark_leaves_its_results(monkeypatch, tmp_path):
    output = tmp_path / "streams.json"
    arguments = ["streams", "--quick", "--rounds", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)  # other tests want theirs
    monkeypatch.setattr(measure, "SHORTEST", 1e-3)
    streams.main()
    layers = json.loads(output.read_text())["layers"]
    assert list(layers) == ["LMUFFT", "LMU"]
    for found in layers.values():
        assert list(found["rates"]) == ["1", "16"]
        assert max(found["errors"].values()) < 1e-4
        served = found["endurance"]
        assert served["ticks"] == 300
        assert served["steps"] == 150 * 16 + 150 * 8
        assert {r["tensors"] for r in served["memory"].values()} == {
            served["memory"]["100"]["tensors"]
        }
    monkeypatch.setattr(tables, "record", lambda name: json.loads(output.read_text()))
    rows = [len(table().split("\n")) for table in (tables.rates, tables.endurance, tables.errors)]
    assert rows == [2 + 4, 2 + 4, 2 + 2]


def test_quick_figures_do_not_replace_results(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["streams", "--quick"])
    with pytest.raises(SystemExit):
        streams.main()


def test_who_is_wrong_is_not_reported():
    with pytest.raises(ArithmeticError, match=r"LMU: off by 0\.002, more than 0\.0001"):
        streams.check("LMU", 0.002)
    with pytest.raises(ArithmeticError):
        streams.check("LMU", float("nan"))
