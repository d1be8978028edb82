"""Rows of the neutral benchmark as files tell them: read, checked before anything is computed, and those published."""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from neutral_suites import SUITES, Suite

#: What a file may hold. `suite` is written by adapters and not read; `notes` are for people.
FIELDS = ("name", "prompts", "program", "budget", "passes", "seconds", "evidence", "differences", "suite", "notes")

#: Told of files that have nothing of what a row needs.
FORM = '{"name": "...", "prompts": {"emoji-0": "...", "emoji-1": "..."}}'


@dataclasses.dataclass(frozen=True)
class Row:
    """What one program found.

    Attributes:
        name, program: with its version or commit.
        texts: for each target.
        held_to: what it was held to, and `passes` and `seconds` what it used for a target; NaN: not told.
        claimed: how likely the program says its words are true, on average, for each target; none: it says nothing.
        differences: from the program as its authors run it.
    """

    name: str
    program: str
    texts: tuple[str, ...]
    held_to: str
    passes: float = math.nan
    seconds: float = math.nan
    claimed: tuple[float | None, ...] = ()
    differences: tuple[str, ...] = ()


def row_of(told: Mapping[str, Any], suite: Suite) -> Row | None:
    """A row of a suite, as a checked file tells it; None if it is of other suites."""
    prompts = told["prompts"]
    if not any(target in prompts for target in suite.ids):
        return None

    def used(key: str) -> float:
        value = told.get(key)
        if isinstance(value, Mapping):
            return math.fsum(float(value[target]) for target in suite.ids) / len(suite.ids)
        return math.nan if value is None else float(value)

    claimed = told.get("evidence", {})
    return Row(
        told["name"], told.get("program", told["name"]), tuple(prompts[target] for target in suite.ids),
        told.get("budget", "not told"), used("passes"), used("seconds"),
        tuple(claimed.get(target) for target in suite.ids) if claimed else (), tuple(told.get("differences", ())),
    )  # fmt: skip


# --- files --------------------------------------------------------------------------------


def read_rows(given: Path, suites: Sequence[Suite], taken: Collection[str]) -> list[dict[str, Any]]:
    """The rows of a file, or of all files `*.json` of a folder.

    Args:
        taken: names that rows have already.

    Raises:
        ValueError: with all that is wrong in all of them.
    """
    paths = [given] if given.is_file() else sorted(given.glob("*.json"))
    if not paths:
        raise ValueError(f"{given} has no files with rows (*.json); docs/neutral.md says what one looks like")
    found: dict[str, dict[str, Any]] = {}
    wrong = []
    for path in paths:
        told, problems = _read(path, suites)
        name = told.get("name")
        if name in found or name in taken:
            problems.append(f"there is a row {name!r} already; give it another name")
        wrong += [f"{path}: {problem}" for problem in problems]
        if not problems:
            found[str(name)] = told
            other = [target for target in told["prompts"] if target not in _ids(suites)]
            if other:
                print(f"{path}: {_listed(other)} not read, since these are not among the targets of this run")
    if wrong:
        raise ValueError("\n".join(wrong))
    return list(found.values())


def _read(path: Path, suites: Sequence[Suite]) -> tuple[dict[str, Any], list[str]]:
    """What a file holds, and what is wrong with it."""
    try:
        # Editors of some systems begin a file with a mark of its encoding.
        told = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        return {}, [f"is not UTF-8: {error}"]
    except json.JSONDecodeError as error:
        return {}, [f"is not JSON: {error}"]
    if not isinstance(told, dict):
        return {}, [f"holds a {type(told).__name__}; a row is {FORM}"]
    return told, list(problems_of(told, suites))


def problems_of(told: Mapping[str, Any], suites: Sequence[Suite]) -> Iterator[str]:
    """What is wrong with a row; nothing: it can be read."""
    if unknown := [key for key in told if key not in FIELDS]:
        yield f"{unknown} is no field of a row; there are {', '.join(FIELDS)}"
    prompts = told.get("prompts")
    if not isinstance(told.get("name"), str) or not told["name"].strip():
        yield f"it needs a name, as in {FORM}"
    for key in ("program", "budget"):
        if not isinstance(told.get(key, ""), str):
            yield f"{key} is {told[key]!r}; it is a text"
    differences = told.get("differences", [])
    if not isinstance(differences, list) or not all(isinstance(one, str) for one in differences):
        yield f"differences is {differences!r}; it is a list of texts"
    if not isinstance(prompts, Mapping):
        yield f"it needs prompts, a text for each target, as in {FORM}"
        return
    yield from _problems_of_targets(prompts, suites)
    for key in ("passes", "seconds", "evidence"):
        yield from _problems_of_numbers(told.get(key), key, prompts)


def _problems_of_targets(prompts: Mapping[str, Any], suites: Sequence[Suite]) -> Iterator[str]:
    if no_text := [target for target, text in prompts.items() if not isinstance(text, str)]:
        yield f"the prompt of {_listed(no_text)} is no text"
    if unknown := [target for target in prompts if not _is_target(target)]:
        yield f"{_listed(unknown)}: no target has such a name; names of targets are {_examples(suites)}"
    elif not prompts:
        yield f"it has no prompt; names of targets are {_examples(suites)}"
    for suite in suites:
        missing = [target for target in suite.ids if target not in prompts]
        if 0 < len(missing) < len(suite.ids):
            yield (
                f"no text for {len(missing)} of the {len(suite.ids)} targets of {suite.name}: {_listed(missing)}; rows "
                "are compared on the same targets: add them, or leave the suite out"
            )


def _problems_of_numbers(value: Any, key: str, prompts: Mapping[str, Any]) -> Iterator[str]:
    """Of what is a number, or one for each target."""
    highest = 1.0 if key == "evidence" else math.inf
    if value is None:
        return
    if isinstance(value, Mapping):
        if missing := [target for target in prompts if target not in value]:
            yield f"{key} has no number for {_listed(missing)}"
        # A text without a word can have no evidence.
        bad = {
            target: one for target, one in value.items()
            if not _is_number(one, highest) and not (key == "evidence" and one is None)
        }  # fmt: skip
        if bad:
            yield f"{key} of {_listed(list(bad))} is {next(iter(bad.values()))!r}; {_accepted(highest)}"
    elif key == "evidence":
        yield f"evidence is {value!r}; it is a number for each target, as prompts are texts"
    elif not _is_number(value, highest):
        yield f"{key} is {value!r}; {_accepted(highest)}"


def _accepted(highest: float) -> str:
    return "it is a number from 0 to 1" if highest == 1 else "it is a number of at least 0, or one for each target"


def _is_number(value: Any, highest: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and 0 <= value <= highest


def _is_target(name: str) -> bool:
    suite, _, place = name.partition("-")
    return suite in SUITES and place.isascii() and place.isdigit()


def _ids(suites: Sequence[Suite]) -> set[str]:
    return {target for suite in suites for target in suite.ids}


def _examples(suites: Sequence[Suite]) -> str:
    return ", ".join(f"{suite.ids[0]} to {suite.ids[-1]}" for suite in suites)


def _listed(names: Sequence[str]) -> str:
    """The first names of many."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


# --- what was published -------------------------------------------------------------------


class Published:
    """The rows of a file of results, for suites that have the same targets, tokens, passes and seed.

    Args:
        path: as `benchmarks/results/neutral.json`.
    """

    def __init__(self, path: Path, passes: int, seed: int) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = (found["passes"], found["seed"]) == (passes, seed)
        self.suites: Mapping[str, Any] = found["suites"] if same else {}

    def row(self, name: str, suite: Suite) -> dict[str, Any] | None:
        """A row in the form of a file's; None if it is not there."""
        row = self._rows(suite).get(name)
        if row is None:
            return None
        claimed = {"evidence": dict(zip(suite.ids, row["claimed"], strict=True))} if "claimed" in row else {}
        return {
            "name": name, "program": row["program"], "prompts": dict(zip(suite.ids, row["texts"], strict=True)),
            "budget": row["held_to"], "passes": row["passes"], "seconds": row["seconds"],
            "differences": row["differences"], **claimed,
        }  # fmt: skip

    def figures(self, row: Row, suite: Suite, names: Sequence[str]) -> dict[str, Any]:
        """What was measured of a row's texts; nothing if they are others."""
        own = self._rows(suite).get(row.name, {})
        return {key: own[key] for key in names if key in own and own["texts"] == list(row.texts)}

    def _rows(self, suite: Suite) -> Mapping[str, Any]:
        found = self.suites.get(suite.name)
        if found is None:
            return {}
        told = (found["title"], found["targets"], found["true"], found.get("tokens"))
        own = (suite.title, suite.ids, list(suite.true), suite.tokens)
        rows: Mapping[str, Any] = found["rows"] if told == own else {}
        return rows
