"""``python -m benchmarks.tables``."""

import sys

from benchmarks.tables import PAGES, render

for page in PAGES:
    text = page.read_text()
    if (rendered := render(text)) != text:
        page.write_text(rendered)
        sys.stdout.write(f"wrote the tables of {page.name}\n")
