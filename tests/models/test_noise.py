import pytest
import torch

from lmu.models import GaussianNoise


def test_noise_in_training_only() -> None:
    torch.manual_seed(0)
    noise, x = GaussianNoise(0.3), torch.full((100, 100), 2.0)
    assert abs((noise(x) - x).std() - 0.3) < 0.01
    assert abs((noise(x) - x).mean()) < 0.02
    assert torch.equal(noise.eval()(x), x)


@pytest.mark.parametrize("std", [-0.1, float("nan"), float("inf")])
def test_wrong_deviation(std: float) -> None:
    with pytest.raises(ValueError, match=r"std must be .*, got"):
        GaussianNoise(std)
