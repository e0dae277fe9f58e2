"""Writes the README's tables of what was run on demand, from the results in benchmarks/results.

python -m scripts.tables writes them between their markers, <!-- table: NAME --> and <!-- end of table -->, with --check
it only says whether they are as it would write them; exit 1 where they are not. A result whose covered sources have
changed since it was made is called stale. --root: another checkout than this one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.engines import ondemand

_MARKED = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


@dataclass(frozen=True)
class Found:
    """A result as its file has it, and whether it is about the sources as they are now."""

    about: ondemand.Demand
    values: dict[str, Any]
    current: bool

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What became of each test or cell."""
        return list(self.values["rows"])

    @property
    def score(self) -> str:
        """How many of how many went well, and the first of those that did not."""
        count, bad = self.values["count"], [row["name"] for row in self.rows if row["outcome"] != "passed"]
        others = f"; not {bad[0]}" + (f" and {len(bad) - 1} more" if len(bad) > 1 else "") if bad else ""
        return f"{count - self.values['failures']} of {count}{others}"

    @property
    def made(self) -> str:
        """At which commit, when, how long it took; "stale" where it is."""
        words = f"{self.values['commit']}, {self.values['made']}, {self.values['seconds'] / 60:.0f} min"
        return words if self.current else f"{words}; **stale**"


def find(name: str, root: Path) -> Found | None:
    """The committed result of a name; None where it was not run yet."""
    path = root / "benchmarks" / "results" / f"{name}.json"
    if not path.exists():
        return None
    about, values = ondemand.demand(name), json.loads(path.read_text(encoding="utf-8"))
    if not {"digest", "count", "failures", "rows"} <= set(values):  # of before results had this shape
        return None
    return Found(about, values, values["digest"] == ondemand.digest(about.covers, root))


def ondemand_table(root: Path) -> str:
    """One line for each kind of result."""
    lines = ["| command | what it runs | passed | made at |", "|---|---|---|---|"]
    for about in ondemand.ALL:
        found = find(about.name, root)
        told = f"{found.score} | {found.made}" if found else "not run yet |"
        lines.append(f"| `make {about.make}` | {about.what} | {told} |")
    return "\n".join(lines)


def matrix_table(root: Path) -> str:
    """Launchers by spreads, each with the numbers of ranks a node that were right."""
    found = find("matrix", root)
    if found is None:
        return "Not run yet."
    cells = [{**row["values"], "right": row["outcome"] == "passed"} for row in found.rows]
    launchers, spreads = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in ("launcher", "spread"))
    lines = [f"| ranks on each of 2 nodes | {' | '.join(spreads)} |", "|---" * (len(spreads) + 1) + "|"]
    for launcher in launchers:
        row = [
            ", ".join(
                f"{cell['ranks']}" if cell["right"] else f"**{cell['ranks']} fails**"
                for cell in cells
                if (cell["launcher"], cell["spread"]) == (launcher, spread)
            )
            for spread in spreads
        ]
        lines.append(f"| {launcher} | {' | '.join(row)} |")
    far = max((cell["distance"] for cell in cells if cell["right"]), default=float("nan"))
    engines = ", ".join(f"{name} {version}" for name, version in found.values["engines"].items())
    told = f"{found.score} end with the weights and losses of one process, to {far:.0e} in float64, and a true record."
    return "\n".join([*lines, "", told, f"Made at {found.made}; with {engines}."])


TABLES: dict[str, Callable[[Path], str]] = {"matrix": matrix_table, "ondemand": ondemand_table}


def written(text: str, root: Path) -> str:
    """A page with its marked tables as they should be; KeyError for a table that nobody makes."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]](root)}\n{found[3]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Write the tables, or check them; 1 where they are not as they should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where there is something to write")
    parser.add_argument("--root", type=Path, default=ondemand.ROOT, help="the checkout")
    asked = parser.parse_args(arguments)
    page = asked.root / "README.md"
    before = page.read_text(encoding="utf-8")
    after = written(before, asked.root)
    if before == after:
        print("tables: README.md has them as they should be")
        return 0
    if asked.check:
        print("tables: README.md has not the tables of benchmarks/results; `make tables` writes them", file=sys.stderr)
        return 1
    page.write_text(after, encoding="utf-8")
    print("tables: written to README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
