"""Times of other packages where they are installed; reasons why others are left out."""

from benchmarks import peers
from benchmarks.gpu.session import Session
from benchmarks.work import LENGTH

NO_S4 = "its authors' code is no package that could be installed and tried"


def measure(s: Session) -> None:
    """List all peers and run the installed ones with small layers, to show their faults."""
    words = peers.status(s.device.type) | {"S4": NO_S4}
    for name, word in words.items():
        s.rows.append({"package": name, "status": word})
        if not word[0].isdigit():
            s.left_out[name] = word
    length = 16 if s.quick else LENGTH
    builds = peers.parallel(16, 16, 4, s.device.type, length)
    builds |= peers.recurrent(16, 16, 4, s.device.type)
    if builds:
        title = f"16 units, T {length}, batch 4, forward + backward"
        s.rows.append({"title": title, "contenders": s.compare(title, {}, others=builds)})
