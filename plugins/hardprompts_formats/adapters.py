"""Prompts of language models, as PEFT keeps them: a folder with a configuration and the embeddings."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardprompts.causes.failures import system_cause
from hardprompts.causes.standins import read_json, stand_in_at
from hardprompts.errors import FileFormatError, brief, quoted
from hardprompts.softprompts import ENCODER_DECODER, LANGUAGE_MODEL, Match, SoftPrompt, SoftPromptFile
from hardprompts.softprompts.names import name_note, readable_name
from hardprompts_formats.common import MAX_TEXT, safetensors_bytes

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
KEY = "prompt_embeddings"

#: Of multitask prompt tuning: (tasks, tokens, ranks) and (tasks, ranks, width), whose product scales the tokens.
TASK_KEYS = ("prefix_task_cols", "prefix_task_rows")

#: Adapters whose prompts are token embeddings; p-tuning stores the output of its network, and context-aware prompt
#: tuning the sum of its examples' tokens and of the changes to them.
_TOKEN_EMBEDDINGS = ("PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING")

#: Why those of other adapters are not read, by their `peft_type`.
_REASONS = {
    "PREFIX_TUNING": "it stores keys and values for the attention of every layer, and no token embeddings",
    "CARTRIDGE": "it stores keys and values for the attention of every layer, and no token embeddings",
    "TRAINABLE_TOKENS": "it holds new embeddings for some of the model's own tokens, and no prompt of its own",
    "ADAPTION_PROMPT": "it changes the attention of some layers, and has no token embeddings",
}

MAX_CONFIG_BYTES = 2**20

#: Tasks of multitask prompt tuning; each becomes a soft prompt.
MAX_TASKS = 256


class Peft:
    """`prompt_embeddings` of prompt tuning and its kin, in a folder with `adapter_config.json`.

    Multitask prompt tuning is read as one soft prompt for each task, called by the folder and "task 0", "task 1", ...
    For an encoder-decoder the rows of both halves lie one behind the other. Other tensors in the file, a classifier's
    say, are passed over. The folder, its configuration or its weights may be given.

    Source: huggingface/peft, src/peft/utils/save_and_load.py and src/peft/peft_model.py.
    """

    suffixes = ("",)
    repository_files = ("adapter_config.json", "adapter_model.safetensors")

    def detect(self, file: SoftPromptFile) -> Match:
        if file.container == "folder":
            return Match.CERTAIN if (file.path / CONFIG).is_file() else Match.NO
        own = KEY in file.keys or file.path.name == CONFIG or (file.path.name in WEIGHTS and _has_config(file))
        return Match.CERTAIN if own else Match.NO

    def read(self, file: SoftPromptFile) -> Sequence[SoftPrompt]:
        config = _config(file)
        kind = config.get("peft_type")
        if kind not in _TOKEN_EMBEDDINGS:
            reason = _REASONS.get(str(kind), "it changes the model's weights, and has no token embeddings")
            raise FileFormatError(f"it is an adapter of the kind {quoted(kind)}: {reason}")
        weights = file if KEY in file.keys else next((found for name in WEIGHTS if (found := file.beside(name))), None)
        if weights is None or KEY not in weights.keys:
            raise FileFormatError(f"there is no {WEIGHTS[0]} with {KEY!r} beside its {CONFIG}")
        rows = weights.tensor(KEY).floats()
        if rows.ndim != 2:
            raise FileFormatError(f"its {KEY} have the shape {tuple(rows.shape)}, and not (tokens, dim)")
        halves = config.get("num_transformer_submodules") or (2 if config.get("task_type") == "SEQ_2_SEQ_LM" else 1)
        count, width = config.get("num_virtual_tokens"), config.get("token_dim") or rows.shape[1]
        if halves not in (1, 2) or not isinstance(count, int) or count < 1 or rows.shape != (count * halves, width):
            raise FileFormatError(
                f"its {KEY} are {rows.shape[0]} x {rows.shape[1]}, and its {CONFIG} speaks of {count} tokens of width "
                f"{width}, {halves} times"
            )
        folder = (file.path if file.container == "folder" else file.path.parent).resolve().name
        if kind != "MULTITASK_PROMPT_TUNING":
            return [_prompt(rows, config, count, halves, folder)]
        tasks = _for_each_task(rows, weights)
        return [_prompt(each, config, count, halves, f"{folder} task {task}") for task, each in enumerate(tasks)]

    def write(self, prompt: SoftPrompt, path: Path) -> Mapping[Path, bytes]:
        import torch

        if prompt.encoders not in (LANGUAGE_MODEL, ENCODER_DECODER):
            raise FileFormatError(
                f"the format 'peft' is for language models ({LANGUAGE_MODEL[0]}, or {' and '.join(ENCODER_DECODER)}), "
                f"and this soft prompt has {', '.join(prompt.encoders)}"
            )
        halves = len(prompt.encoders)
        kept = {key: value for key, value in prompt.metadata.items() if key in _KEPT}
        config = {
            "task_type": "SEQ_2_SEQ_LM" if halves == 2 else "CAUSAL_LM",
            "base_model_name_or_path": prompt.base_models[0] if prompt.base_models else None,
            **kept,
            # The prompt is what counts now, whatever it was made by.
            "peft_type": "PROMPT_TUNING",
            "prompt_tuning_init": "RANDOM",
            "inference_mode": True,
            "num_virtual_tokens": prompt.num_tokens,
            "num_transformer_submodules": halves,
            "token_dim": prompt.widths[0],
        }
        rows = torch.cat(list(prompt.embeddings.values()))
        return {
            path / WEIGHTS[0]: safetensors_bytes({KEY: rows}, {"format": "pt"}),
            path / CONFIG: (json.dumps(config, indent=2, sort_keys=True) + "\n").encode(),
        }


#: Fields of a configuration that are written as they were read.
_KEPT = ("task_type", "num_layers", "num_attention_heads", "revision", "base_model_name_or_path")


def _prompt(rows: "Tensor", config: Mapping[str, Any], count: int, halves: int, name: str) -> SoftPrompt:
    """The soft prompt of (tokens, dim) embeddings, those of both halves one behind the other."""
    encoders = LANGUAGE_MODEL if halves == 1 else ENCODER_DECODER
    base = config.get("base_model_name_or_path")
    plain = {
        key: value
        for key, value in config.items()
        if isinstance(value, str | int | float | bool) and len(str(value)) <= MAX_TEXT
    }
    return SoftPrompt(
        dict(zip(encoders, rows.split(count), strict=True)),
        name=readable_name(name),
        base_models=(base,) if isinstance(base, str) and base else (),
        metadata={**plain, **name_note(name)},
    )


def _for_each_task(rows: "Tensor", weights: SoftPromptFile) -> "Tensor":
    """The (tasks, tokens, dim) embeddings of multitask prompt tuning.

    Raises:
        FileFormatError: what scales the tokens for each task is missing or of another shape.
    """
    columns, lines = (weights.tensor(key).floats() for key in TASK_KEYS)
    fits = columns.ndim == lines.ndim == 3 and len(columns) == len(lines) <= MAX_TASKS
    if not fits or columns.shape[1:] != (len(rows), lines.shape[1]) or lines.shape[2] != rows.shape[1]:
        raise FileFormatError(
            f"its {' and '.join(TASK_KEYS)} have the shapes {tuple(columns.shape)} and {tuple(lines.shape)}, which do "
            f"not scale {KEY} of {tuple(rows.shape)} for at most {MAX_TASKS} tasks"
        )
    return rows * (columns @ lines)


def _has_config(file: SoftPromptFile) -> bool:
    return (file.path.parent / CONFIG).is_file()


def _config(file: SoftPromptFile) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        FileFormatError: it is missing, damaged or too large.
    """
    path = (file.path if file.container == "folder" else file.path.parent) / CONFIG
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise FileFormatError(f"its {CONFIG} is too large")
        config = read_json(path)
    except FileNotFoundError as error:
        raise FileFormatError(
            f"its {CONFIG}: {found}"
            if (found := stand_in_at(path))
            else f"there is no {CONFIG} beside it, which alone tells prompt tuning from prefix tuning; put it there"
        ) from error
    except OSError as error:
        raise FileFormatError(f"its {CONFIG} cannot be read: {system_cause(error) or brief(error)}") from error
    if not isinstance(config, dict):
        raise FileFormatError(f"its {CONFIG} holds {type(config).__name__} instead of named values")
    return config
