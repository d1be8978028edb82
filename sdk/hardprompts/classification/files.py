"""Tuners and searches as files: JSON, written in one go."""

import dataclasses
import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardprompts.atomic import json_text, write_text_atomically
from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.classification.verbalizer import Verbalizer
from hardprompts.errors import FileFormatError, HardPromptsError
from hardprompts.hub.card import CardPart, code_fence, code_span, facts_list, python_block
from hardprompts.hub.machine import Clearance, shown_model
from hardprompts.hub.mixin import HubMixin
from hardprompts.hub.names import PROMPT_FILE, TUNER_FILE, hub_model
from hardprompts.hub.places import model_here, write_with_place
from hardprompts.prompts import Candidate, HardPrompt, HistoryPoint
from hardprompts.search.protocol import SearchResult

FORMAT_VERSION = 1


@dataclasses.dataclass(frozen=True)
class SavedTuner(HubMixin):
    """What is kept of a fitted tuner: all but the model.

    Attributes:
        model: the name that `load_backend` opens.
        parameters: arguments of the constructor, JSON values.
    """

    model: str
    parameters: Mapping[str, Any]
    verbalizer: Verbalizer
    prompt: HardPrompt
    report: Mapping[str, Any]

    def cleared(self) -> "tuple[SavedTuner, Clearance]":
        """The same as it may be shared, and what was changed for that; see `HardPrompt.cleared`."""
        prompt, told = self.prompt.cleared()
        clearance = Clearance.of([told])
        clearance.keep("labels", [*map(str, self.verbalizer.classes), *map(list, self.verbalizer.words)])
        cleared = dataclasses.replace(
            self,
            model=clearance.model("model", self.model),
            parameters=clearance.values("parameters", self.parameters, ("template", "initial_prompt")),
            prompt=prompt,
            report=clearance.values("report", self.report),
        )
        return cleared, clearance

    def to_json(self) -> str:
        """What tuner.json holds, without paths of this machine; see `cleared`.

        Raises:
            HardPromptsError: a label is neither a number, a string nor an enum.
        """
        cleared = self.cleared()[0]
        values = {
            "format_version": FORMAT_VERSION,
            "model": cleared.model,
            "parameters": dict(cleared.parameters),
            "classes": [_written(label) for label in self.verbalizer.classes],
            "words": [list(words) for words in self.verbalizer.words],
            "report": dict(cleared.report),
            "prompt": cleared.prompt.to_dict(),
        }
        return json_text(values)

    def hub_files(self, repo_id: str) -> dict[str, bytes]:
        """The files that hold it in a repository, by name: its prompt stands beside it, for those who want it alone."""
        return {TUNER_FILE: self.to_json().encode(), PROMPT_FILE: self.prompt.to_json().encode()}

    def card_part(self, repo_id: str) -> CardPart:
        """What the repository's card says of it."""
        return CardPart(
            _card_section(repo_id, self.cleared()[0]),
            ("hard-prompt", "prompt-tuning"),
            "text-classification",
            hub_model(self.model),
        )

    def write(self, folder: Path) -> Path:
        """Writes tuner.json into a folder, which is made if need be; returns the file's path.

        A model that is a folder of this machine has its path in a file of its own; see `HardPrompt.save_pretrained`.

        Raises:
            HardPromptsError: a label is neither a number, a string nor an enum.
        """
        return write_with_place(folder / TUNER_FILE, self.to_json(), self.model)

    @classmethod
    def read(cls, folder: Path) -> "SavedTuner":
        """The tuner that `write` wrote.

        Raises:
            FileFormatError: there is none in that folder, or it is damaged.
        """
        path = folder / TUNER_FILE
        values = _read(path)
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise FileFormatError(f"{path}: format version {version!r}; this release reads version {FORMAT_VERSION}")
        try:
            classes = tuple(_labeled(label) for label in values["classes"])
            words = tuple(tuple(map(str, own)) for own in values["words"])
            prompt, model = HardPrompt.from_dict(values["prompt"]), model_here(folder, str(values["model"]))
            return cls(
                model, dict(values["parameters"]), Verbalizer(classes, words),
                dataclasses.replace(prompt, model=model_here(folder, prompt.model)), dict(values["report"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"{path} does not describe a tuner: {error!r}") from error


@dataclasses.dataclass(frozen=True)
class SavedSearch:
    """One search of a fit, in a folder of checkpoints.

    Attributes:
        mark: what the search depends on, as a hash; one of other data or settings is not taken.
    """

    folder: Path
    seed: int
    mark: str

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / f"search-{self.seed}.json"

    def read(self) -> SearchResult | None:
        """What the search found; None if it was not written, or is of other data or settings.

        Raises:
            FileFormatError: the file is damaged.
        """
        if not self.path.exists():
            return None
        values = _read(self.path)
        if values.get("mark") != self.mark:
            return None
        try:
            return SearchResult(
                tuple(Candidate(c["text"], tuple(c["token_ids"]), c["score"]) for c in values["candidates"]),
                tuple(HistoryPoint(**point) for point in values["history"]),
                values["seed"], values["stop_reason"], values["steps"], values["seconds"], values["evaluations"],
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise FileFormatError(f"{self.path} does not describe a search: {error!r}; remove it") from error

    def write(self, result: SearchResult) -> None:
        """Writes what the search found."""
        values = {"mark": self.mark, **dataclasses.asdict(result)}
        write_text_atomically(self.path, json_text(values))


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        found = stand_in_at(path)
        raise FileFormatError(f"no {path.name} in {str(path.parent)!r}{f': {found}' if found else ''}") from error
    if not isinstance(values, dict):
        raise FileFormatError(f"{path} holds {type(values).__name__} instead of named fields")
    return values


def _written(label: Any) -> Any:
    if isinstance(label, enum.Enum):
        return {"enum": type(label).__name__, "name": label.name}
    if isinstance(label, str | int | float):
        return label
    raise HardPromptsError(f"the label {label!r} cannot be written; use numbers, strings or enums")


def _labeled(label: Any) -> Any:
    """An enum comes back as the name of its member: its class is the user's own."""
    return str(label["name"]) if isinstance(label, dict) else label


def _card_section(repo_id: str, tuner: "SavedTuner") -> str:
    prompt, report, words = tuner.prompt, tuner.report, tuner.verbalizer
    facts: list[tuple[str, object]] = [
        ("model", shown_model(tuner.model)), ("template", tuner.parameters.get("template")), ("method", prompt.method),
        ("tokens", len(prompt.token_ids)), ("seed", prompt.seed), ("stopped", prompt.stop_reason),
        ("evaluations", prompt.evaluations or None),
        *((f"word{'s' * (len(own) > 1)} of class {place}", f"{label}: {', '.join(own)}")
          for place, (label, own) in enumerate(zip(words.classes, words.words, strict=True))),
    ]  # fmt: skip
    parts = [
        "A few words that make a frozen language model tell the class of a text. They were found by a search, so they "
        "need not read well.",
        code_fence(prompt.text),
        facts_list(facts),
        _measured(report),
    ]
    notes = [note for note in report.get("notes") or () if isinstance(note, str)]
    if notes:
        parts.append("\n".join(f"- {code_span(note)}" for note in notes))
    parts.append(
        python_block(
            "from hardprompts import ClassifierPromptTuner",
            "",
            f'tuner = ClassifierPromptTuner.from_pretrained("{repo_id}")',
            'tuner.predict(["a text"])',
        )
    )
    return "\n\n".join(part for part in parts if part)


def _measured(report: Mapping[str, Any]) -> str:
    """The report of a classifier as a table: the prompt beside the empty template."""
    rows = []
    for name, key in (("this prompt", "prompt"), ("no prompt", "empty_template")):
        figures = report.get(key)
        if figures is None and key != "prompt":  # there was no room to measure it
            continue
        if not isinstance(figures, Mapping):
            return ""
        numbers = [figures.get(field) for field in ("accuracy", "balanced_accuracy", "category_errors")]
        shown = [f"{float(value):.3f}" if isinstance(value, int | float) else "" for value in numbers]
        answers = figures.get("histogram")
        counts = "/".join(str(int(count)) for count in answers) if isinstance(answers, list | tuple) else ""
        rows.append(f"| {name} | {' | '.join(shown)} | {counts} |")
    count = report["prompt"].get("count")
    texts = f"{int(count)} " if isinstance(count, int) else ""
    on = "held-out texts" if report.get("measured_on") == "holdout" else "texts that it was learned from"
    head = "| | accuracy | balanced accuracy | no label at all | answers by class |\n|---|---|---|---|---|"
    return f"Measured on {texts}{on}:\n\n{head}\n" + "\n".join(rows)
