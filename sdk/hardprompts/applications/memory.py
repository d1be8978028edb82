"""How much memory a search will take, measured on a prompt or two."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hardprompts.classification.batches import MAX_BATCH_TOKENS
from hardprompts.classification.objective import LabelLikelihood
from hardprompts.classification.options import TunerOptions
from hardprompts.classification.prompted import language_model
from hardprompts.classification.verbalizer import Verbalizer
from hardprompts.encoders import Backend, opened_backend
from hardprompts.errors import BackendError
from hardprompts.inversion.views import bytes_of_pictures
from hardprompts.methods.word_table import BATCH as WORDS_AT_ONCE
from hardprompts.objectives import Evaluation, FeatureSimilarity
from hardprompts.search.graphs import gradient_of
from hardprompts.search.protocol import Search, WordSearch
from hardprompts.search.registry import DEFAULT_METHOD, search_method
from hardprompts.search.seeds import generator_of
from hardprompts.search.tables import WORD_BYTES, search_tables
from hardprompts.towers.memory import MemoryEstimate, held_bytes, held_tensors, peak_of
from hardprompts.vocabulary import Vocabulary

#: Stands in for the texts of a classifier, where none are given: 48 words.
A_TEXT = "the quick brown fox jumps over the lazy dog and runs away " * 4


def estimate_memory(
    model: "str | Backend",
    *,
    num_tokens: int = 8,
    restarts: int = 16,
    candidates: int = 512,
    pictures: int = 64,
    texts: Sequence[str] = (A_TEXT,),
    batch_tokens: int | None = None,
    method: str | Search = DEFAULT_METHOD,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> MemoryEstimate:
    """The bytes that a search through a model takes on its device at the most, by what they are for.

    One prompt, and two, go through the model once with a gradient and once without; every tensor is counted as long as
    it lives, and more prompts take more in proportion. What kernels need within themselves and what the allocator
    rounds up is not seen. `vram` of `invert`, `distill` and `ClassifierPromptTuner` measures likewise, and chooses. For
    a pipeline in memory there is `hardprompts_diffusers.estimate_memory`.

    Args:
        model: a model that compares images with text, or a language model; its name, or an open `Backend`.
        num_tokens: of the prompts.
        restarts: prompts that a gradient is taken of at once: the restarts of most methods, times the images that are
            searched together.
        candidates: prompts that are scored at once.
        pictures: views of images that are encoded at once.
        texts: examples of what a language model is to classify, of which a gradient takes `TunerOptions.batch_size`
            at once, under each of the prompts.
        batch_tokens: tokens that go through a language model at once; None: as many as `ClassifierPromptTuner` takes on
            this device where nothing is said.
        method: whose tables are counted; see `hardprompts.search.search_methods`.
        device, dtype: of a model that is given by name; see `load_backend`.

    Raises:
        UnknownName, BackendError: see `load_backend`; or the model is a pipeline.
    """
    backend = opened_backend(model, device=device, dtype=dtype)
    words = backend.vocabulary.narrowed(None, (), None)
    if backend.language_model is not None:
        objective = _labels(backend, num_tokens, texts)
        limit = batch_tokens or MAX_BATCH_TOKENS.get(backend.device.type, 4096)
        gradient, scoring, looking = _of_language_model(objective, words, num_tokens, restarts, limit), 0, 0
        tables = search_tables(words, search_method(method), None)
    elif backend.noise_predictor is not None:
        raise BackendError(
            f"{backend.name} is a pipeline that is searched through its denoiser; open it with diffusers and ask "
            "hardprompts_diffusers.estimate_memory(pipe)"
        )
    else:
        target = torch.nn.functional.normalize(torch.ones(1, 1, backend.feature_width, device=backend.device), dim=2)
        similarity = FeatureSimilarity(backend.text_encoder, target, target.new_ones(1, 1))
        gradient, scoring = _of_tower(similarity, words, num_tokens, restarts, candidates)
        looking = 0 if backend.image_encoder is None else _of_images(backend, pictures)
        tables = search_tables(words, search_method(method), backend.feature_width)
        if isinstance(search_method(method), WordSearch):
            # Words are read by themselves first, when only what is kept of the table is there.
            read = _of_tower(similarity, words, 1, 1, WORDS_AT_ONCE)[1]
            scoring = max(scoring, read - tables * (WORD_BYTES - 2) // WORD_BYTES)
    table = held_bytes(held_tensors(words, backend.vocabulary), backend.device)
    others = held_bytes(held_tensors(backend), backend.device)
    weights = sum(size for storage, size in others.items() if storage not in table)
    return MemoryEstimate(weights, sum(table.values()) + tables, gradient, scoring, looking)


def _of_tower(
    objective: FeatureSimilarity, words: Vocabulary, num_tokens: int, restarts: int, candidates: int
) -> tuple[int, int]:
    """What gradients of some prompts take, and scores of others."""
    device = words.table.device
    ids = words.sample((2, num_tokens), generator_of(0))
    groups = torch.zeros(2, dtype=torch.long, device=device)
    gradient = _extrapolated(
        lambda count: gradient_of(objective, words.embed(ids[:count]), groups[:count]), restarts, device
    )
    lookup = _extrapolated(lambda count: words.nearest(words.embed(ids[:count])), restarts, device)
    scoring = _extrapolated(lambda count: objective.score(ids[:count], groups[:count]), candidates, device)
    return max(gradient, lookup), scoring


def _of_images(backend: Backend, pictures: int) -> int:
    one, two = bytes_of_pictures(backend)
    return one + (pictures - 1) * (two - one)


def _labels(backend: Backend, num_tokens: int, texts: Sequence[str]) -> LabelLikelihood:
    """The task of telling "yes" from "no", of as many texts as a gradient takes."""
    model, options = language_model(backend), TunerOptions(num_tokens=num_tokens)
    prompted = options.prompted(model, Verbalizer(("yes", "no"), (("yes",), ("no",))))
    rows = [prompted.encoder.row(prompted.encoder.cut(text)) for text in texts]
    drawn = [rows[i % len(rows)] for i in range(options.batch_size)]
    return LabelLikelihood(prompted.reader, drawn, [0] * len(drawn), fluency_weight=options.fluency_share(model))


def _of_language_model(
    objective: LabelLikelihood, words: Vocabulary, num_tokens: int, restarts: int, batch_tokens: int
) -> int:
    """What a gradient takes, of the largest batch of texts under prompts that goes through the model at once."""
    prompt = words.embed(words.sample((1, num_tokens), generator_of(0)))
    batches = dataclasses.replace(
        objective.reader.batches(objective.rows, restarts, num_tokens), max_tokens=batch_tokens
    )
    found = []
    for prompts, part in batches:
        longest = max(part, key=lambda i: len(objective.rows[i]))
        gradient = functools.partial(_gradient, objective, prompt, longest)
        found.append(_extrapolated(gradient, (prompts.stop - prompts.start) * len(part), words.table.device))
    return max(found)


def _gradient(objective: LabelLikelihood, prompt: Tensor, row: int, count: int) -> None:
    """One of so many texts that are alike."""
    gradient_of(lambda own: Evaluation(objective.losses(own, [row] * count)), prompt)


def _extrapolated(work: Callable[[int], object], count: int, device: torch.device) -> int:
    """What some work takes for `count` of something, from what it takes for one and for two."""
    work(1)  # what is only made once
    one, two = (peak_of(lambda number=number: work(number), device) for number in (1, 2))  # type: ignore[misc]
    return one + (count - 1) * (two - one)
