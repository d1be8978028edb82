"""The README.md that a prompt carries on the Hub: metadata that the Hub reads, and text that stays text.

Whatever came from a prompt, a file or a search is data. It stands in code spans and fences that are longer than any
row of backticks in it, with control characters as escapes, so that it is shown and never read as Markdown or HTML.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardprompts.prompts import HardPrompt, printable
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts.prompt import ENCODER_DECODER, LANGUAGE_MODEL

if TYPE_CHECKING:
    from hardprompts.classification.saved import SavedTuner

#: Stands in the cards written here: only those are written anew when a prompt is pushed again.
MARK = "<!-- Written by hardprompts. Remove this line to keep what you change here. -->"

#: Letters of a text from a prompt that a card shows; the rest is in the files.
MAX_SHOWN = 4000

#: What stands before a model's name where the name is one of the Hub's.
_HUB_SCHEMES = ("transformers:", "diffusers:", "open_clip:hf-hub:")


def render_card(
    repo_id: str,
    hard_prompt: HardPrompt | None,
    soft_prompt: SoftPrompt | None = None,
    license: str | None = None,
    tuner: "SavedTuner | None" = None,
) -> str:
    """The README.md of a repository that holds a hard prompt, a soft prompt, or both.

    Args:
        repo_id: "user/name", for the lines that show how to load them.
        license: an identifier of the Hub ("cc0-1.0", say), or None to name none.
        tuner: the classifier that the hard prompt is of, with its report.

    Raises:
        ValueError: neither prompt was given.
    """
    if hard_prompt is None and soft_prompt is None:
        raise ValueError("a card needs a hard prompt or a soft prompt, and there is neither")
    parts = [f"# {repo_id.rpartition('/')[2]}"]
    if tuner is not None:
        parts.append(_classifier_section(repo_id, tuner))
    elif hard_prompt is not None:
        parts.append(_hard_section(repo_id, hard_prompt))
    if soft_prompt is not None:
        parts.append(_soft_section(repo_id, soft_prompt))
    metadata = _metadata(hard_prompt, soft_prompt, license, tuner is not None)
    return f"---\n{metadata}\n---\n{MARK}\n\n" + "\n\n".join(parts) + "\n"


def hub_model(name: str) -> str:
    """The repository on the Hub that a backend's name stands for: "user/name"; "" if it is none.

    A name alone does not tell `user/name` from a local folder; the Hub shows such a one without a link.
    """
    rest = next((name.removeprefix(scheme) for scheme in _HUB_SCHEMES if name.startswith(scheme)), "")
    return rest if is_repo_id(rest) else ""


def is_repo_id(text: str) -> bool:
    """True for what the Hub accepts as "user/name"."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(text)
    except HFValidationError:
        return False
    return text.count("/") == 1


def code_span(text: object) -> str:
    """A text as inline code of Markdown that nothing in it can end."""
    shown = _shown(str(text))
    fence = "`" * (_longest_run(shown) + 1)
    # Spaces keep backticks at either end apart from the fence, and are not shown themselves.
    space = " " if not shown.strip() or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{space}{shown}{space}{fence}" if shown.strip() else "(nothing)"


def code_fence(text: str, language: str = "text") -> str:
    """A text as a block of code of Markdown that nothing in it can end; line breaks in it are shown as escapes."""
    shown = _shown(text)
    fence = "`" * max(3, _longest_run(shown) + 1)
    return f"{fence}{language}\n{shown}\n{fence}"


def _shown(text: str) -> str:
    written = printable(text)
    return written if len(written) <= MAX_SHOWN else f"{written[:MAX_SHOWN]}... ({len(written)} letters in all)"


def _longest_run(text: str) -> int:
    return max((len(list(run)) for letter, run in itertools.groupby(text) if letter == "`"), default=0)


def _metadata(
    hard_prompt: HardPrompt | None, soft_prompt: SoftPrompt | None, license: str | None, classifier: bool
) -> str:
    """The YAML at the top, by the Hub's own class for it."""
    from huggingface_hub import ModelCardData

    tags = ["hardprompts"]
    task, base = "text-to-image", ""
    if hard_prompt is not None:
        tags += ["hard-prompt", "prompt-tuning" if classifier else "prompt-inversion"]
        base = hub_model(hard_prompt.model)
    if soft_prompt is not None:
        of_language_model = soft_prompt.encoders in (LANGUAGE_MODEL, ENCODER_DECODER)
        tags += ["soft-prompt", "prompt-tuning" if of_language_model else "textual_inversion"]
        tags = list(dict.fromkeys(tags))
        task = "text-generation" if of_language_model else task
        base = base or next(filter(is_repo_id, soft_prompt.base_models), "")
    task = "text-classification" if classifier else task
    data = ModelCardData(
        base_model=base or None, library_name="hardprompts", license=license, pipeline_tag=task, tags=tags
    )
    return str(data.to_yaml())


def _facts(facts: Sequence[tuple[str, object]]) -> str:
    return "\n".join(f"- {name}: {code_span(value)}" for name, value in facts if value not in ("", None, ()))


def _hard_section(repo_id: str, prompt: HardPrompt) -> str:
    facts: list[tuple[str, object]] = [
        ("model", prompt.model),
        ("method", prompt.method),
        (prompt.score_unit if prompt.score_unit.replace(" ", "").isalnum() else "score", f"{prompt.score:.4f}"),
        ("tokens", len(prompt.token_ids)),
        ("template", "" if prompt.template == "{}" else prompt.template),
        ("seed", prompt.seed),
        ("stopped", prompt.stop_reason),
        ("evaluations", prompt.evaluations or None),
    ]
    parts = [
        "A hard prompt: text that any model, UI or API takes. It was found by a search, so it need not read well.",
        code_fence(prompt.filled),
    ]
    if printable(prompt.filled) != prompt.filled:
        parts.append("Characters that cannot be seen are shown as escapes; `prompt.json` has the exact text.")
    parts.append(_facts(facts))
    escapes: list[tuple[str, object]] = [
        (ui, text)
        for ui, text in (("ComfyUI", prompt.escaped("comfyui")), ("A1111", prompt.escaped("a1111")))
        if text != prompt.filled
    ]
    if escapes:
        parts.append("With the characters that weight words made literal:\n\n" + _facts(escapes))
    if len(prompt.candidates) > 1:
        best = "\n".join(f"1. {code_span(c.text)} ({c.score:.4f})" for c in prompt.candidates[:5])
        parts.append(f"The best that the search found:\n\n{best}")
    parts.append(
        _python(
            "from hardprompts import HardPrompt",
            "",
            f'prompt = HardPrompt.from_pretrained("{repo_id}")',
            "pipe(str(prompt))  # any text-to-image pipeline",
        )
    )
    return "\n\n".join(parts)


def _classifier_section(repo_id: str, tuner: "SavedTuner") -> str:
    prompt, report, words = tuner.prompt, tuner.report, tuner.verbalizer
    facts: list[tuple[str, object]] = [
        ("model", tuner.model), ("template", tuner.parameters.get("template")), ("method", prompt.method),
        ("tokens", len(prompt.token_ids)), ("seed", prompt.seed), ("stopped", prompt.stop_reason),
        ("evaluations", prompt.evaluations or None),
        *((f"word{'s' * (len(own) > 1)} of class {place}", f"{label}: {', '.join(own)}")
          for place, (label, own) in enumerate(zip(words.classes, words.words, strict=True))),
    ]  # fmt: skip
    parts = [
        "A few words that make a frozen language model tell the class of a text. They were found by a search, so they "
        "need not read well.",
        code_fence(prompt.text),
        _facts(facts),
        _measured(report),
    ]
    notes = [note for note in report.get("notes") or () if isinstance(note, str)]
    if notes:
        parts.append("\n".join(f"- {code_span(note)}" for note in notes))
    parts.append(
        _python(
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


def _soft_section(repo_id: str, prompt: SoftPrompt) -> str:
    widths = ", ".join(f"{name} {width}" for name, width in zip(prompt.encoders, prompt.widths, strict=True))
    facts: list[tuple[str, object]] = [
        ("trigger", prompt.name),
        ("fits", " or ".join(prompt.families)),
        ("tokens", prompt.num_tokens),
        ("text encoders", widths),
        ("training step", prompt.step),
        ("trained on", ", ".join(prompt.base_models)),
    ]
    parts = ["A soft prompt: token embeddings that no text has.", _facts(facts)]
    if prompt.encoders in (LANGUAGE_MODEL, ENCODER_DECODER):
        parts.append(
            _python("from peft import PeftModel", "", f'model = PeftModel.from_pretrained(model, "{repo_id}")')
        )
    elif len(prompt.encoders) == 1:
        parts.append(_python(f'pipe.load_textual_inversion("{repo_id}")  # a pipeline of diffusers'))
    elif set(prompt.encoders) == {"clip_l", "clip_g"}:
        parts.append(
            _python(
                f'pipe.load_textual_inversion("{repo_id}")',
                "pipe.load_textual_inversion(",
                f'    "{repo_id}", weight_name="learned_embeds_2.safetensors",',
                "    text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2,",
                ")",
            )
        )
    parts.append(_python("from hardprompts import SoftPrompt", "", f'prompt = SoftPrompt.from_pretrained("{repo_id}")'))
    return "\n\n".join(parts)


def _python(*lines: str) -> str:
    """Lines of our own, as a block of code."""
    return "\n".join(("```python", *lines, "```"))
