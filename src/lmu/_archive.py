"""Reading of ``torch.save`` files that may be damaged or malicious; a checksum for files of lmu.

The checksum is the comment at the end of the zip archive that ``torch.save`` writes, which
``torch.load`` and any other reader of such files ignore.
"""

import hashlib
import hmac
import io
import zipfile
from pathlib import Path
from typing import Any

import torch

_MARK = b"torch-lmu-sha256:"
_LENGTH = len(_MARK) + 64


def seal(content: bytes) -> bytes:
    """Add a checksum of every byte to a file of ``torch.save``."""
    if content[-22:-18] != b"PK\5\6" or content[-2:] != b"\0\0":
        raise ValueError("not what torch.save writes: no zip archive without a comment")
    content = content[:-2] + _LENGTH.to_bytes(2, "little") + _MARK
    return content + hashlib.sha256(content).hexdigest().encode()


def read_archive(path: Path) -> tuple[Any, bool]:
    """Read a file of ``torch.save`` without running code in it.

    Returns:
        The content, on the CPU, and True if the file has a checksum. Files without one are checked
        by the zip archive's own, of each member, which miss some bits between the members.

    Raises:
        ValueError: The file cannot be read, is not of ``torch.save``, or is damaged.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from error
    sealed = content[-_LENGTH:-64] == _MARK
    if sealed:
        digest = hashlib.sha256(content[:-64]).hexdigest().encode()
        if not hmac.compare_digest(digest, content[-64:]):
            raise ValueError("its checksum does not match: some bytes have changed")
    else:
        _check_members(content)
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True), sealed
    except Exception as error:  # another program's file may raise anything
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise ValueError(f"PyTorch cannot read it ({reason})") from error


def _check_members(content: bytes) -> None:
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("it is not a file of torch.save, or not all of one")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            # PyTorch never compresses members: a compressed one may be a zip bomb.
            packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
            if packed or sum(member.file_size for member in members) > len(content):
                raise ValueError("it is a packed archive, which torch.save does not write")
            wrong = archive.testzip()
    except Exception as error:  # zipfile raises many types for wrong bytes
        raise ValueError(f"its archive is damaged ({error})") from error
    if wrong is not None:
        raise ValueError(f"its checksum does not match in {wrong}: some bytes have changed")
