import gzip
import http.server
import logging
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lmu.tasks import mnist
from lmu.tasks.mnist import CHECKOUT, FILES, DataError, load, locate, read_bytes

LABELS = "t10k-labels-idx1-ubyte"


@pytest.fixture(autouse=True)
def quiet_pooch() -> None:
    logging.getLogger("pooch").setLevel(logging.WARNING)


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A local server of the gzipped files."""
    root = tmp_path / "mirror"
    root.mkdir()
    for name in FILES:
        shutil.copy(CHECKOUT / f"{name}.gz", root)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def copy_all(folder: Path, raw: bool) -> Path:
    folder.mkdir()
    for name in FILES:
        source = CHECKOUT / f"{name}.gz"
        if raw:
            (folder / name).write_bytes(gzip.decompress(source.read_bytes()))
        else:
            shutil.copy(source, folder)
    return folder


def test_the_checkout_is_used_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = locate(cache=tmp_path / "cache", mirrors=())
    assert {path.parent for path in paths.values()} == {CHECKOUT}


@pytest.mark.parametrize("below", ["", "examples/deep"])
def test_a_checkout_around_the_current_folder_is_found_by_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, below: str
) -> None:
    monkeypatch.setattr(mnist, "CHECKOUT", tmp_path / "lib" / "data" / "mnist")
    (tmp_path / "data").mkdir()
    data = copy_all(tmp_path / "data" / "mnist", raw=False)
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / below)
    paths = locate(cache=tmp_path / "cache", mirrors=())
    assert {path.parent for path in paths.values()} == {data}
    # One that lacks a file is no such folder: the cache goes before it.
    (data / f"{LABELS}.gz").unlink()
    cache = copy_all(tmp_path / "cache", raw=False)
    assert {path.parent for path in locate(mirrors=(), cache=cache).values()} == {cache}


def test_where_it_looked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "CHECKOUT", tmp_path / "lib" / "data" / "mnist")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        locate(cache=tmp_path / "cache", mirrors=())
    for folder in ("data/mnist", "lib/data/mnist", "cache"):
        assert str(tmp_path / folder) in str(caught.value)
    assert "in a checkout of this repository" in str(caught.value)


@pytest.mark.parametrize("raw", [True, False])
def test_the_contents_are_digits(tmp_path: Path, raw: bool) -> None:
    paths = locate(copy_all(tmp_path / "data", raw))
    images, labels = load(paths, "t10k")
    assert images.shape == (10_000, 28, 28)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert images.float().mean().item() / 255 == pytest.approx(0.1325, abs=1e-4)


def test_the_training_part_has_60000_digits() -> None:
    images, labels = load(locate(), "train")
    assert images.shape == (60_000, 28, 28)
    assert labels.bincount().tolist()[:3] == [5923, 6742, 5958]


def test_a_named_folder_is_the_only_one(tmp_path: Path) -> None:
    folder = copy_all(tmp_path / "data", raw=False)
    (folder / f"{LABELS}.gz").unlink()
    with pytest.raises(DataError, match=rf"{LABELS}.*--data"):
        locate(folder)
    with pytest.raises(DataError, match="nowhere"):
        locate(tmp_path / "nowhere")


def test_an_incomplete_checkout_is_an_error(tmp_path: Path) -> None:
    checkout = copy_all(tmp_path / "checkout", raw=False)
    (checkout / f"{LABELS}.gz").unlink()
    with pytest.raises(DataError, match=f"{LABELS}.*version control"):
        locate(checkout=checkout, cache=tmp_path, mirrors=())


@pytest.mark.parametrize("damage", ["bytes", "gzip", "raw"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / (LABELS if damage == "raw" else f"{LABELS}.gz")
    if damage == "gzip":
        path.write_bytes((CHECKOUT / path.name).read_bytes()[:2000])
    else:
        path.write_bytes(b"<html>" if damage == "bytes" else b"\0" * 10_008)
    with pytest.raises(DataError, match=f"{LABELS}.*damaged.*delete it"):
        read_bytes(LABELS, path)


def test_download_fills_the_cache_and_is_not_repeated(tmp_path: Path, mirror: str) -> None:
    cache = tmp_path / "cache"
    first = locate(checkout=tmp_path / "none", cache=cache, mirrors=(mirror,))
    assert {path.parent for path in first.values()} == {cache}
    for name, path in first.items():
        assert len(read_bytes(name, path)) > 10_000
    assert locate(checkout=tmp_path / "none", cache=cache, mirrors=()) == first


def test_a_broken_mirror_is_passed_over(tmp_path: Path, mirror: str) -> None:
    mirrors = (f"{mirror}nothing-here/", mirror)
    cache = copy_all(tmp_path / "cache", raw=True)
    (cache / LABELS).unlink()
    paths = locate(checkout=tmp_path / "none", cache=cache, mirrors=mirrors)
    assert read_bytes(LABELS, paths[LABELS])


def test_a_wrong_download_is_refused(tmp_path: Path, mirror: str) -> None:
    shutil.copy(
        tmp_path / "mirror" / "train-labels-idx1-ubyte.gz", tmp_path / "mirror" / f"{LABELS}.gz"
    )
    cache = copy_all(tmp_path / "cache", raw=True)
    (cache / LABELS).unlink()
    with pytest.raises(DataError, match=r"(?s)could not be downloaded.*127\.0\.0\.1.*--data"):
        locate(checkout=tmp_path / "none", cache=cache, mirrors=(mirror,))
    assert not (cache / LABELS).exists()


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert mnist.default_cache().name == "mnist"
    assert "torch-lmu" in mnist.default_cache().parts
