"""``python -m benchmarks.tables``."""

import sys

from benchmarks.tables import PAGES, render
from lmu._files import write_whole

for page in PAGES:
    text = page.read_text()
    if (rendered := render(text)) != text:
        write_whole(page, rendered.encode())
        sys.stdout.write(f"wrote the tables of {page.name}\n")
