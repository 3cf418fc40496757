from collections.abc import Iterator

import pytest

from tests.distributed.processes import Processes


@pytest.fixture(scope="session")
def processes(tmp_path_factory) -> Iterator[Processes]:
    """Four processes for all tests."""
    started = Processes(4, tmp_path_factory.mktemp("processes"))
    yield started
    started.close()
