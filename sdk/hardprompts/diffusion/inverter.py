"""DenoisingInverter: images, or a text, become a prompt under which a diffusion model does the same."""

import dataclasses
import importlib.metadata
import secrets
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.encoders import Backend, NoisePredictor, load_backend
from hardprompts.errors import BackendError, SearchError, VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.noise import LATE, Conditioning, NoiseWindow
from hardprompts.objectives import check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate, unique
from hardprompts.search.loop import run_search
from hardprompts.search.protocol import Callback, Search, SearchResult
from hardprompts.search.registry import search_method
from hardprompts.search.rows import pack, random_starts
from hardprompts.search.seeds import Stream
from hardprompts.vocabulary import Vocabulary

#: Steps of a method that would never stop by itself.
DEFAULT_MAX_STEPS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class DenoisingOptions:
    """What `DenoisingInverter` takes beside the images.

    Attributes:
        num_tokens: tokens of the prompt.
        template: text with one "{}" that the prompt is for.
        initial_prompt: text that every restart begins with; default: random tokens.
        initial_prompts: texts to start from, one restart each, instead of `restarts` random ones.
        unlike: images whose denoising error should be large, with `unlike_weight`.
        banned: strings that must not occur in the prompt.
        vocabulary: phrases whose tokens alone may be used, or a `Vocabulary`.
        weights: of the images of each task, one positive number each; default: all equal.
        window: the noise levels on which prompts are judged.
        num_noises: items of the fixed bank: noises at as many noise levels, spread over the window.
        noises_per_step: items drawn for a gradient; None for all.
        crop: the side of random square crops, as a share of the image's shorter side; see `NoiseBank.draw`.
        batch_size: rows (a prompt with a noise) through the denoiser at once. Memory grows with it.
        restarts: random starts, searched in one batch.
        max_steps, max_evaluations, deadline, patience, token_cost, top_k, seed, callback: see `run_search`.

    Raises:
        ValueError: a number out of range.
    """

    num_tokens: int = 8
    template: str = "{}"
    initial_prompt: str | None = None
    initial_prompts: Sequence[str] = ()
    unlike: Any = None
    unlike_weight: float = 0.5
    banned: Sequence[str] = ()
    vocabulary: Sequence[str] | Vocabulary | None = None
    weights: Sequence[Sequence[float]] | None = None
    window: NoiseWindow = LATE
    num_noises: int = 16
    noises_per_step: int | None = 4
    crop: tuple[float, float] = (1.0, 1.0)
    batch_size: int = 8
    restarts: int = 4
    max_steps: int | None = None
    max_evaluations: int | None = None
    deadline: float | None = None
    patience: int | None = None
    token_cost: float = 0.0
    top_k: int = 10
    seed: int | None = None
    callback: Callback | None = None

    def __post_init__(self) -> None:
        for name in ("num_tokens", "num_noises", "batch_size", "restarts", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.noises_per_step is not None and self.noises_per_step < 1:
            raise ValueError(f"noises_per_step must be at least 1, or None for all, got {self.noises_per_step}")
        for name in ("unlike_weight", "token_cost"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class DenoisingInverter:
    """Finds the prompt under which a diffusion model denoises an image best.

    Unlike a dual encoder's similarity, this asks the model that is to draw the picture; and it
    costs two passes through its denoiser for every noise. Memory is that of the larger of text
    encoders and denoiser with its gradients; see `NoisePrediction`.

    Args:
        model: a `NoisePredictor`, a backend that has one, or its name for `load_backend`.
        method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters;
            default: "ph2p".

    Raises:
        BackendError: the backend makes no images.
        UnknownName: no such backend or method.

    Source: PH2P, arXiv 2312.12416.
    """

    def __init__(self, model: NoisePredictor | Backend | str, method: str | Search | None = None) -> None:
        opened = load_backend(model) if isinstance(model, str) else model
        if isinstance(opened, Backend):
            if opened.noise_predictor is None:
                raise BackendError(
                    f"{opened.name} has no denoiser; open a text-to-image model, as in diffusers:<folder or hub id>"
                )
            self.predictor = opened.noise_predictor
        else:
            self.predictor = opened
        method = "ph2p" if method is None else method
        self.search = search_method(method)
        self.method = method if isinstance(method, str) else repr(method)

    def invert(self, images: "ImageInput | Sequence[ImageInput]", **options: Any) -> HardPrompt:
        """One prompt for one image, or for what several images share; takes `DenoisingOptions`.

        Raises:
            ImageError, TemplateError, VocabularyError, SearchError: see `PromptInverter.invert`.
            NonFiniteError: the model overflows in half precision.
        """
        return self.invert_each([images], **options)[0]

    def invert_each(self, tasks: "Sequence[ImageInput | Sequence[ImageInput]]", **options: Any) -> list[HardPrompt]:
        """One prompt for each image, or for each list of images, searched in one batch."""
        chosen = self._chosen(options)
        seed = self._seed(chosen)
        return self._search(NoisePrediction(self.predictor, self._bank(tasks, chosen, seed)), chosen, seed)

    def imitate(self, text: str, images: "ImageInput | Sequence[ImageInput]", **options: Any) -> HardPrompt:
        """The prompt under which the denoiser predicts what it predicts under `text`, on noised images.

        The score is the share of the text's effect that the prompt has: 0 for the empty prompt, 1 for
        one that makes the denoiser do the same.

        Args:
            text: what to imitate, read as the model itself reads it: a long text is cut off where
                the model's text encoder cuts it off.
            images: pictures of what the text says, such as the model makes of it.

        Raises: as `invert`.
        """
        chosen = self._chosen(options)
        seed = self._seed(chosen)
        objective = NoisePrediction(self.predictor, self._bank([images], chosen, seed), batch_size=chosen.batch_size)
        teacher = self.predictor.condition_text(text)
        return self._search(objective.imitating(teacher), chosen, seed, unit="share of the text's effect")[0]

    def rescore(
        self, texts: Sequence[str], images: "ImageInput | Sequence[ImageInput]", **options: Any
    ) -> tuple[Candidate, ...]:
        """Prompts of any origin, best first by this model's score; those that its tokenizer changes are left out.

        Raises:
            SearchError: none is left.
        """
        chosen = self._chosen(options)
        seed = self._seed(chosen)
        template = PromptTemplate(chosen.template)
        bank = self._bank([images], chosen, seed)
        objective = NoisePrediction(self.predictor, bank, template, batch_size=chosen.batch_size)
        vocabulary, room = self.predictor.vocabulary, objective.free_tokens()
        found = []
        for text in dict.fromkeys(texts):
            ids = vocabulary.encode(text)
            if 0 < len(ids) <= room and vocabulary.survives_round_trip(ids, template):
                row = torch.tensor([ids], device=vocabulary.table.device)
                score = float(objective.score(row, torch.zeros(1, dtype=torch.long, device=row.device)))
                found.append(Candidate(vocabulary.decode(ids), tuple(ids), score))
        if not found:
            raise SearchError(
                f"none of {len(texts)} prompts survives the round trip of {self.predictor.name}'s tokenizer"
            )
        return unique(found)

    def score(self, text: str, images: "ImageInput | Sequence[ImageInput]", **options: Any) -> float:
        """The score of a text, by the model's own tokenizer; `template` is not applied."""
        chosen = self._chosen(options)
        objective = NoisePrediction(self.predictor, self._bank([images], chosen, self._seed(chosen)))
        return _text_scores(objective, self.predictor.condition_text(text))[0]

    # --- the search -----------------------------------------------------------------------

    @staticmethod
    def _chosen(options: dict[str, Any]) -> DenoisingOptions:
        return DenoisingOptions(**options)

    @staticmethod
    def _seed(options: DenoisingOptions) -> int:
        return secrets.randbits(31) if options.seed is None else options.seed

    def _bank(self, tasks: Sequence[Any], options: DenoisingOptions, seed: int) -> NoiseBank:
        loaded = [load_images(task) for task in tasks]
        weights = [[1.0] * len(images) for images in loaded] if options.weights is None else options.weights
        for images, own in zip(loaded, weights, strict=True):
            if len(own) != len(images) or not all(weight > 0 for weight in own):
                raise ValueError(f"weights must be {len(images)} positive numbers, one for each image, got {own}")
        return NoiseBank.draw(
            self.predictor,
            [list(zip(images, own, strict=True)) for images, own in zip(loaded, weights, strict=True)],
            unlike=[] if options.unlike is None else load_images(options.unlike),
            unlike_weight=options.unlike_weight,
            items=options.num_noises,
            window=options.window,
            crop=options.crop,
            seed=seed,
        )

    def _search(
        self, judged: NoisePrediction, options: DenoisingOptions, seed: int, unit: str = NoisePrediction.unit
    ) -> list[HardPrompt]:
        template = PromptTemplate(options.template)
        score = dataclasses.replace(judged, template=template, batch_size=options.batch_size)
        objective = score
        if options.noises_per_step is not None and options.noises_per_step * score.bank.pairs < len(score.bank):
            draws = Stream.NOISES.generator(seed)
            objective = dataclasses.replace(score, sample_size=options.noises_per_step, generator=draws)
        check_length(options.num_tokens, score.free_tokens(), template, self.predictor.name)
        words = self.predictor.vocabulary.narrowed(options.vocabulary, options.banned)
        tasks = len(score.bank.weights)
        initial = self._initial_ids(words, options, tasks, seed)
        groups = torch.arange(tasks).repeat_interleave(len(initial) // tasks)
        limits = (options.max_steps, options.max_evaluations, options.deadline, options.patience)
        results = run_search(
            self.search,
            objective,
            score,
            words,
            initial,
            groups=groups,
            template=template,
            max_steps=DEFAULT_MAX_STEPS if all(limit is None for limit in limits) else options.max_steps,
            max_evaluations=options.max_evaluations,
            deadline=options.deadline,
            patience=options.patience,
            score_per_token=options.token_cost,
            top_k=options.top_k,
            seed=seed,
            callback=options.callback,
        )
        return [self._prompt(result, task, score, options, unit) for task, result in enumerate(results)]

    def _initial_ids(
        self, vocabulary: Vocabulary, options: DenoisingOptions, tasks: int, seed: int
    ) -> Int[Tensor, "rows tokens"]:
        if options.initial_prompts:
            rows = [vocabulary.encode(text) for text in options.initial_prompts]
            if not all(0 < len(row) <= options.num_tokens for row in rows):
                raise VocabularyError(
                    f"initial_prompts have {', '.join(str(len(row)) for row in rows)} tokens; each needs 1 to "
                    f"num_tokens = {options.num_tokens}"
                )
            return pack(rows).repeat(tasks, 1)
        return random_starts(vocabulary, tasks * options.restarts, options.num_tokens, seed, options.initial_prompt)

    def _prompt(
        self, result: SearchResult, task: int, score: NoisePrediction, options: DenoisingOptions, unit: str
    ) -> HardPrompt:
        best, vocabulary = result.best, self.predictor.vocabulary
        score.check_text(best.text)
        without = [best.token_ids[:i] + best.token_ids[i + 1 :] for i in range(len(best.token_ids))]
        rows = torch.tensor(without, dtype=torch.long, device=vocabulary.table.device)
        groups = torch.full((len(rows),), task, device=rows.device)
        kept: list[float] = score.score(rows, groups).tolist()
        return HardPrompt(
            text=best.text,
            token_ids=best.token_ids,
            score=best.score,
            template=options.template,
            model=self.predictor.name,
            method=self.method,
            score_unit=unit,
            tokens=vocabulary.token_texts(best.token_ids),
            attributions=tuple(best.score - other for other in kept),
            candidates=result.candidates,
            history=result.history,
            seed=result.seed,
            stop_reason=result.stop_reason,
            evaluations=result.evaluations,
            provenance={
                "noise_window": [options.window.low, options.window.high],
                "num_noises": len(score.bank) // score.bank.pairs,
                "noises_per_step": options.noises_per_step,
                "crop": list(options.crop),
                "restarts": options.restarts,
                "hardprompts": importlib.metadata.version("hardprompts"),
                "torch": torch.__version__,
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
            },
        )


def _text_scores(objective: NoisePrediction, conditioning: Conditioning) -> list[float]:
    groups = torch.zeros(len(conditioning), dtype=torch.long, device=objective.bank.noisy.device)
    scores: list[float] = objective.scores_of(conditioning, groups).tolist()
    return scores
