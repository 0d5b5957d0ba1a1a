"""What README.md and the documentation show, works.

Every fenced block is looked at by its language:

- ``python`` is run.  The blocks of a page follow one another and share their names; those of README.md, of which
  people copy one, do not.
- ``text`` right after it is what it prints.
- ``sh`` must parse; commands and options of ``atom-events`` must exist, and so must extras that are installed.

In Python blocks the collector is a real one, in this process: ``http://127.0.0.1:3000/`` stands for its address.
"""

from __future__ import annotations

import logging
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import metadata
from io import StringIO
from pathlib import Path

import hypothesis
import pytest

from atom_anyio.collector import Collector
from atom_sync.cli._group import atom_events

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ADDRESS = "http://127.0.0.1:3000/"

_BLOCK = re.compile(r"^(?P<fence>```+)(?P<language>[^\n`]*)\n(?P<text>.*?)^(?P=fence)$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    page: Path
    line: int
    """Of its first line of text."""
    language: str
    text: str
    output: str | None = None
    """What it prints, if the page says so."""

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    markdown = page.read_text("utf-8")
    block = None
    end = 0
    for match in _BLOCK.finditer(markdown):
        language, text = match["language"].strip(), match["text"]
        between = markdown[end : match.start()]
        end = match.end()
        if language == "text" and block is not None and block.language == "python" and not between.strip():
            block.output = text
            continue
        block = Block(page, markdown.count("\n", 0, match.start("text")) + 1, language, text)
        yield block


def in_language(language: str, *pages: Path) -> list[Block]:
    return [block for page in pages for block in blocks(page) if block.language == language]


@pytest.fixture
def quick_hypothesis() -> Iterator[None]:
    """Few examples, no database in the working directory, no look at the clock."""
    hypothesis.settings.register_profile("before", hypothesis.settings.default)
    hypothesis.settings.register_profile("docs", max_examples=25, database=None, deadline=None)
    hypothesis.settings.load_profile("docs")
    yield
    hypothesis.settings.load_profile("before")


@pytest.mark.usefixtures("quick_hypothesis")
@pytest.mark.parametrize("page", [page for page in PAGES if in_language("python", page)], ids=lambda page: page.name)
def test_python_blocks_run(
    page: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's blocks run one after the other, print what the page says, and leave no error in a log."""
    caplog.set_level(logging.WARNING)
    monkeypatch.chdir(tmp_path)  # for files that they make
    names: dict[str, object] = {"__name__": "__main__"}
    with Collector() as url:
        for block in in_language("python", page):
            # Blank lines before it, so that tracebacks have the page's line numbers.
            source = "\n" * (block.line - 1) + block.text.replace(ADDRESS, url)
            if page.name == "README.md":
                names = {"__name__": "__main__"}
            printed = StringIO()
            with redirect_stdout(printed):
                exec(compile(source, str(block), "exec", dont_inherit=True), names)
            if block.output is not None:
                assert printed.getvalue().replace(url, ADDRESS) == block.output, str(block)
    assert [record.getMessage() for record in caplog.records if record.name != "atom"] == []


def commands(block: Block) -> Iterator[list[str]]:
    """The block's commands as words."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in shlex.split(line, comments=True):
            if word in ("&&", "|", ";"):
                yield words
                words = []
            else:
                words.append(word)
        if words:
            yield words


@pytest.mark.parametrize("block", in_language("sh", *PAGES), ids=str)
def test_shell_blocks_parse(block: Block) -> None:
    """The shell takes it, without running it."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)


@pytest.mark.parametrize("block", in_language("sh", *PAGES), ids=str)
def test_commands_exist(block: Block) -> None:
    """Every command of ``atom-events`` and each of its options exists."""
    for words in commands(block):
        if words[0] != "atom-events":
            continue
        command = atom_events.commands[words[1]]
        known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words[2:] if word.startswith("--")} <= known | {"--help"}, str(block)


@pytest.mark.parametrize("block", in_language("sh", *PAGES), ids=str)
def test_extras_exist(block: Block) -> None:
    """Every extra that is installed is one of the project's."""
    extras = set(metadata("atom-events").get_all("Provides-Extra") or ())
    for words in commands(block):
        for word in words:
            match = re.fullmatch(r"(?:\.|atom-events)\[(.*)\]", word)
            assert match is None or set(match[1].split(",")) <= extras, str(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_languages_are_known(page: Path) -> None:
    """No block is left out because its language is misspelt; Sphinx's own have braces."""
    languages = {block.language for block in blocks(page) if not block.language.startswith("{")}
    assert languages <= {"python", "text", "sh"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_exist(page: Path) -> None:
    """Files of this project that a page names are there."""
    named = re.findall(r"`((?:tests|docs|atom_\w+)/[\w./-]+)`", page.read_text("utf-8"))
    named += re.findall(r"\]\(((?!https?:)[^)#]+)\)", page.read_text("utf-8"))
    missing = [name for name in named if not ((ROOT / name).exists() or (page.parent / name).exists())]
    assert missing == []
