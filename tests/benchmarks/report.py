"""The table as text, and where it goes in docs/performance.md."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .rows import Row, number

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"
LIBRARIES = ("orjson", "h11", "anyio", "trio", "uvloop")


def table(rows: Iterable[Row]) -> str:
    """The rows as a Markdown table."""
    lines = ["| what | limit | ours | figure | target | met |", "| --- | --- | --- | ---: | ---: | --- |"]
    for row in rows:
        target = "" if row.target is None else f"{row.sense.value} {row.target:,g}{row.unit}"
        met = {True: "yes", False: "**no**", None: ""}[row.met]
        figure = f"{number(row.value)}{row.unit}"
        if row.spread:
            figure += f" ({number(row.spread[0])} to {number(row.spread[1])})"
        lines.append(f"| {row.what} | {row.limit} | {row.ours} | {figure} | {target} | {met} |")
    return "\n".join(lines)


def circumstances(arguments: list[str]) -> dict[str, str]:
    """Where, when and on what the figures were taken."""
    return {
        "machine": _machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "commit": _commit(),
        "command": shlex.join(["python", "-m", "tests.benchmarks", *arguments]),
    }


def _machine() -> str:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    name = model[1] if model else platform.machine()
    return f"{name}, {platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB of memory, {platform.system()}"


def _commit() -> str:
    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "atom_sansio", "atom_sync", "atom_anyio")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def preamble(circumstances: Mapping[str, Any]) -> str:
    """The circumstances as a list, command included."""
    return "\n".join(
        [
            f"- {circumstances['machine']}",
            f"- {circumstances['python']}; {circumstances['libraries']}",
            f"- {circumstances['date']}, commit {circumstances['commit']}",
            "",
            "```sh",
            circumstances["command"],
            "```",
        ]
    )


def replace_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """*page* with each of the *blocks* in place of what stood between its two markers.

    A block lies between ``<!-- generated: NAME -->`` and ``<!-- end of NAME -->``, each on a line of its own;
    everything else is prose, and stays.

    Raises:
        ValueError: the page has not exactly one such pair of markers for a block.
    """
    for name, text in blocks.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->\n"
        before, *rest = page.split(begin)
        _, *after = rest[0].split(end) if len(rest) == 1 else ("",)
        if len(after) != 1:
            raise ValueError(f"the page must have one pair of markers for the block {name!r}")
        page = f"{before}{begin}\n{text.strip()}\n\n{end}{after[0]}"
    return page


def write(blocks: Mapping[str, str]) -> Path:
    """Put *blocks* into docs/performance.md; returns where that is."""
    PAGE.write_text(replace_blocks(PAGE.read_text(), blocks))
    return PAGE
