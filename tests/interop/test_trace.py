"""What a PyTorch too old to export says."""

import pytest

from lmu import LMU
from lmu.interop import _trace
from lmu.interop._loops import while_loop


def test_old_pytorch_is_refused(monkeypatch):
    monkeypatch.setattr(_trace, "can_export", lambda: False)
    with pytest.raises(ImportError, match=r"PyTorch .* cannot export .*: upgrade it"):
        _trace.trace(LMU(1, 4, 3, 5.0), "step", while_loop)
