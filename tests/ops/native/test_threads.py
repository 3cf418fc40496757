"""Threads of the kernels: PyTorch's own team, or Python threads where there is none."""

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from lmu.ops import native
from lmu.ops.native import _threads
from tests import forks
from tests.limits import HANG
from tests.ops.native.arguments import structure

F32 = torch.float32


@pytest.fixture
def two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["team", "own"])
def source(request, monkeypatch, two) -> str:
    """Each kind of threads."""
    if request.param == "own":
        monkeypatch.setattr(_threads, "team", lambda: None)
    elif _threads.team() is None:
        pytest.skip("this PyTorch has no OpenMP whose threads kernels could use")
    return request.param


class Meeting:
    """The arguments of the kernel "meet", which does a part in each of ``together`` threads."""

    def __init__(self, parts: int, together: int = 1, failing: int = -1) -> None:
        self.done = torch.zeros(parts, dtype=torch.int64)
        self.thread = torch.zeros(parts, dtype=torch.int64)
        self.arguments = structure(int(HANG), together, self.done, self.thread, 0, failing)
        self.parts = parts

    def run(self) -> None:
        native.run("meet", F32, self.arguments, self.parts)

    def threads(self) -> int:
        assert self.done.tolist() == [1] * self.parts
        return len(set(self.thread.tolist()))


def test_two_threads_work_at_once(checks, source):
    for _ in range(3):
        meeting = Meeting(parts=2, together=2)
        meeting.run()
        assert meeting.threads() == 2


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 50])
def test_each_part_is_done_once(checks, source, parts):
    meeting = Meeting(parts)
    meeting.run()
    assert meeting.threads() <= min(parts, 2)


def test_a_single_thread_is_that_of_the_caller(checks, source):
    torch.set_num_threads(1)
    here, meeting = Meeting(1), Meeting(5)
    here.run()
    meeting.run()
    assert meeting.threads() == 1
    assert meeting.thread[0] == here.thread[0]


def test_a_part_that_fails_fails_the_whole(checks, source):
    meeting = Meeting(5, failing=3)
    with pytest.raises(MemoryError, match="'meet'"):
        meeting.run()
    assert meeting.threads() <= 2


def test_many_python_threads_call_at_once(checks, source):
    meetings = [Meeting(parts=7) for _ in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Meeting.run, meetings))
    assert all(meeting.threads() <= 2 for meeting in meetings)


def test_the_team_is_the_one_that_pytorch_uses(two):
    team = _threads.team()
    if team is None:
        pytest.skip("this PyTorch has no OpenMP whose threads kernels could use")
    assert native.native_status().threads == _threads.TEAM or not native.is_available()
    most = next(
        library.omp_get_max_threads
        for library in _threads._as_pytorch_looks_it_up()
        if _threads.address(library.GOMP_parallel) == team.fork
    )
    for number in (1, 2, 1):
        torch.set_num_threads(number)  # which tells its OpenMP library
        assert most() == number


def test_a_job_inside_of_a_team_is_done_by_its_thread(checks, two):
    team = _threads.team()
    if team is None:
        pytest.skip("this PyTorch has no OpenMP whose threads kernels could use")
    outer, inner = Meeting(parts=2, together=2), [Meeting(parts=4) for _ in range(2)]
    rows = ctypes.create_string_buffer(b"".join(bytes(m.arguments) for m in inner))
    arguments = structure(outer.arguments, ctypes.addressof(rows), 4, *team)
    native.run("nest", F32, arguments, 2)
    assert outer.threads() == 2
    for part, meeting in enumerate(inner):
        assert meeting.threads() == 1
        assert meeting.thread[0] == outer.thread[part]


@pytest.mark.skipif(not hasattr(forks.os, "fork"), reason="this system has no fork")
def test_a_forked_process_has_threads_of_its_own(checks, source):
    Meeting(parts=2, together=2).run()

    def child() -> None:
        for _ in range(2):
            meeting = Meeting(parts=2, together=2)
            meeting.run()
            assert meeting.threads() == 2
        assert _threads.team() is None

    assert forks.status(forks.start(child)) == 0
    Meeting(parts=2, together=2).run()


def test_steps_are_bound_once(checks, dtype):
    x, y = torch.full((1,), 5, dtype=dtype), torch.zeros(1, dtype=dtype)
    step = native.bind("count", dtype, structure(0, 0, 0))
    for calls in (1, 2, 3):
        assert step(x.data_ptr(), y.data_ptr()) == 0
        assert y.item() == 5 + calls
