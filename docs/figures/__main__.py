"""Write the tables and draw the pictures of the pages: ``python -m docs.figures [tables ...]``."""

import argparse

from docs.figures import concepts, grid, sweeps, tables

PARTS = {"tables": tables.write, "sweeps": sweeps.pictures, "concepts": concepts.pictures}
PARTS |= {"grid": grid.pictures}


def main() -> None:
    """Write the named parts, or all."""
    parser = argparse.ArgumentParser(prog="python -m docs.figures", description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    args = parser.parse_args()
    if unknown := set(args.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join(PARTS)}")
    for name in args.parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
