"""Mutation testing: ``python -m tests.mutation [MODULE ...]``, say ``_cut`` or, for single mutants, ``_cut:3,17``.

Prints each survivor, and a table as in ``docs/mutation.md``.  Fails if one survives that is not listed there.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

from .mutants import Mutant, mutants
from .run import Outcome, Runner

_ROOT: Final = Path(__file__).parents[2]

_TESTS: Final = {
    "_sign": ["sign", "request"],
    "_verify": ["receive"],
    "_request": ["request", "client"],
    "_encode": ["encode"],
    "_elements": ["receive"],
    "_receive": ["receive"],
    "_verdict": ["verdict"],
    "_answer": ["answer"],
    "_backoff": ["backoff", "breaker"],
    "_breaker": ["breaker"],
    "_cut": ["cut", "lane"],
    "_endpoint": ["endpoint"],
    "_http": ["http"],
    "_state": ["state", "tracker"],
    "_flush": ["flush", "receipt"],
    "_client": ["client"],
    "_inlet": ["inlet", "intake", "lane"],
    "_intake": ["intake"],
    "_memory": ["memory"],
    "_budget": ["budget"],
    "_logged": ["logged"],
    "_records": ["records"],
    "_kept": ["messages"],
    "_ledger": ["ledger", "tracker", "backlog_core", "recorded_core"],
    "_recording": ["keeper", "backlog_core", "recorded_core", "backlog_found"],
    "_keeper": ["keeper", "backlog_core", "recorded_core", "backlog_found"],
    "_lane": ["tracker", "backlog_core", "recorded_core", "lane", "keeper", "budget"],
    "_schedule": ["schedule", "tracker", "backlog_core", "recorded_core", "budget"],
    "_losses": ["losses"],
    "_admission": ["admission", "tracker", "backlog_core", "recorded_core", "backlog_found", "intake"],
    "_delivery": ["tracker", "backlog_core", "recorded_core", "backlog_found", "budget"],
    "_tracker": ["receipt", "backlog_core", "recorded_core", "intake", "backlog_found", "tracker"],
    "_options": ["options"],
    "_messages": ["messages"],
}
"""The modules whose mutants are tested, and which tests are to kill them."""


def main() -> int:
    """Test what the command line names, else all."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help=f"of {', '.join(_TESTS)}; MODULE:N,N for mutants")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    parser.add_argument(
        "--verbose", action="store_true", help="print every mutant, and what pytest says of single ones"
    )
    arguments = parser.parse_args()
    known = (_ROOT / "docs/mutation.md").read_text("utf-8")
    rows, unknown = [], 0
    for argument in arguments.modules or _TESTS:
        name, _, numbers = argument.partition(":")
        if name not in _TESTS:
            parser.error(f"{name} is none of {', '.join(_TESTS)}")
        path = _ROOT / "atom_sansio" / f"{name}.py"
        chosen = list(mutants(path.read_text("utf-8"), str(path)))
        if numbers:
            chosen = [mutant for mutant in chosen if str(mutant.number) in numbers.split(",")]
        if arguments.list:
            for mutant in chosen:
                print(_line(name, mutant))
            continue
        survivors = _survivors(name, path, chosen, verbose=arguments.verbose, quiet=not numbers)
        for mutant in survivors:
            listed = f"`{name}.py` {mutant.change}" in known
            unknown += not listed
            print(f"survived{'' if listed else ', not listed'}: {_line(name, mutant)}", flush=True)
        killed = len(chosen) - len(survivors)
        rows.append(
            f"| `{name}.py` | {len(chosen)} | {killed} | {len(survivors)} | {100 * killed / len(chosen):.1f} % |"
        )
        print(rows[-1], flush=True)
    if len(rows) > 1:
        print("\n| module | mutants | killed | survivors | killed |\n| --- | --- | --- | --- | --- |", *rows, sep="\n")
    return 1 if unknown else 0


def _line(name: str, mutant: Mutant) -> str:
    return f"{name}:{mutant.number} line {mutant.line}: {mutant.change}"


def _survivors(name: str, path: Path, chosen: list[Mutant], *, verbose: bool, quiet: bool) -> list[Mutant]:
    tests = [str(_ROOT / f"tests/sansio/test_{test}.py") for test in _TESTS[name]]
    unchanged = compile(path.read_text("utf-8"), str(path), "exec")
    runner = Runner(f"atom_sansio.{name}", path, quiet=quiet or not verbose)
    survivors: list[Mutant] | None = None

    def work() -> None:
        nonlocal survivors
        start = time.monotonic()
        if runner.outcome(unchanged, timeout=600) is not Outcome.SURVIVED:
            return
        survivors = []
        timeout = 3 + 3 * (time.monotonic() - start)
        for mutant in chosen:
            outcome = runner.outcome(mutant.code, timeout=timeout)
            if outcome is Outcome.SURVIVED:
                survivors.append(mutant)
            if verbose:
                print(f"{outcome.value}: {_line(name, mutant)}", flush=True)

    runner.run(tests, work)
    if survivors is None:
        sys.exit(f"{name}: its tests fail without any change")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
