"""The option --device of the tests."""

import pytest
import torch

from tests import devices


@pytest.mark.parametrize(("name", "backend"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_a_device_that_is_not_there_is_refused(monkeypatch, name, backend):
    before = devices.current
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(pytest.UsageError, match=f"--device {name}: .* finds no such device here"):
        devices.choose(name)
    assert devices.current is before


def test_the_fixture_is_the_device_of_the_option(device, request):
    assert device.type == request.config.getoption("--device")


def test_tensors_are_placed(monkeypatch):
    wide = torch.ones(2, dtype=torch.float64)
    assert devices.place(wide).device.type == devices.current.type
    monkeypatch.setattr(devices, "current", torch.device("mps"))
    with pytest.raises(pytest.skip.Exception, match="MPS has no float64"):
        devices.place(wide)
