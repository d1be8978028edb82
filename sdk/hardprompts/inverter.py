"""PromptInverter: images become a prompt."""

import dataclasses
import importlib.metadata
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from hardprompts.encoders import Backend, join_backends, load_backend, normalize
from hardprompts.errors import ImageError, NonFiniteError
from hardprompts.images import ImageInput, augmented_views, load_images
from hardprompts.methods import Refine
from hardprompts.objectives import FeatureSimilarity, JudgedSimilarity, Score, check_length
from hardprompts.plugins import search_method
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate
from hardprompts.search import Callback, Search, SearchResult, on_bar, random_starts, run_search
from hardprompts.vocabulary import Vocabulary

#: Steps of a method that would never stop by itself.
DEFAULT_MAX_STEPS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class _Target:
    """Unit features that one prompt is to resemble (weights add up to 1) or to avoid (below 0)."""

    features: Float[Tensor, "targets features"]
    weights: Float[Tensor, " targets"]

    @property
    def mean(self) -> Float[Tensor, " features"]:
        return self.weights @ self.features


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What `PromptInverter.invert` takes beside the images; explained there."""

    num_tokens: int = 8
    template: str = "{}"
    initial_prompt: str | None = None
    unlike: Any = None
    banned: Sequence[str] = ()
    vocabulary: Sequence[str] | Vocabulary | None = None
    text: str | None = None
    weights: Sequence[float] | None = None
    text_weight: float = 0.5
    unlike_weight: float = 0.5
    views: int = 8
    shortest: float | None = None
    restarts: int = 16
    max_steps: int | None = None
    max_evaluations: int | None = None
    deadline: float | None = None
    patience: int | None = None
    token_cost: float = 0.15
    top_k: int = 10
    seed: int | None = None
    callback: Callback | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if self.token_cost < 0:
            raise ValueError(f"token_cost must not be negative, got {self.token_cost}")
        for name in ("num_tokens", "views", "restarts", "top_k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.text_weight <= 1:
            raise ValueError(f"text_weight must be in [0, 1], got {self.text_weight}")
        if self.unlike_weight < 0:
            raise ValueError(f"unlike_weight must not be negative, got {self.unlike_weight}")
        if self.shortest is not None and not 0 < self.shortest <= 1:
            raise ValueError(f"shortest must be in (0, 1], got {self.shortest}")


class PromptInverter:
    """Finds the prompt that says what images show, in the eyes of a model that compares images with text.

    Args:
        backend: a model's name for `load_backend`, an open `Backend`, or several of either, which
            then agree on one prompt (their tokenizers must be the same).
        method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters,
            such as `PEZ(learning_rate=0.05)`.
        device, dtype: for models that are given by name; see `load_backend`.
        judge: a second model that picks the winner among what the search meets, so that the
            prompt does not overfit the first. Any tokenizer.

    Raises:
        UnknownName, BackendError: see `load_backend`.

    Source: PEZ, arXiv 2302.03668, section 4.
    """

    def __init__(
        self,
        backend: "str | Backend | Sequence[str | Backend]" = "emoji",
        method: str | Search = "pez+refine",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        judge: "str | Backend | None" = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return load_backend(model, device=device, dtype=dtype) if isinstance(model, str) else model

        models = [backend] if isinstance(backend, str | Backend) else list(backend)
        self.backend = join_backends([opened(model) for model in models])
        self.judge = None if judge is None else opened(judge)
        self.search = search_method(method)
        self.method = method if isinstance(method, str) else repr(method)

    def invert(
        self,
        images: "ImageInput | Sequence[ImageInput] | Tensor",
        num_tokens: int = 8,
        template: str = "{}",
        initial_prompt: str | None = None,
        unlike: "ImageInput | Sequence[ImageInput] | Tensor | None" = None,
        banned: Sequence[str] = (),
        vocabulary: "Sequence[str] | Vocabulary | None" = None,
        *,
        text: str | None = None,
        weights: Sequence[float] | None = None,
        text_weight: float = 0.5,
        unlike_weight: float = 0.5,
        views: int = 8,
        shortest: float | None = None,
        restarts: int = 16,
        max_steps: int | None = None,
        max_evaluations: int | None = None,
        deadline: float | None = None,
        patience: int | None = None,
        token_cost: float = 0.15,
        top_k: int = 10,
        seed: int | None = None,
        callback: Callback | None = None,
        progress: bool = True,
    ) -> HardPrompt:
        """The prompt of one image, or one prompt for what several images share (a style, say).

        Args:
            images: a path, PIL image, numpy array (HWC, BHWC; uint8, or float in [0, 1]), torch tensor
                (CHW, BCHW; likewise), a list of these; or features of the model, (features,) or
                (images, features).
            num_tokens: tokens of the prompt, 1 or more; methods with insert and delete moves return
                as many or fewer.
            template: the text that the prompt is for, with one "{}": "a tiger in the style of {}".
            initial_prompt: text to start from; default: random tokens.
            unlike: images that the prompt should not fit.
            banned: strings that must not occur in the prompt, whatever their case.
            vocabulary: phrases whose tokens alone may be used (a keyword bank), or a `Vocabulary`.
            text: a text that the prompt should resemble too, with `text_weight` of the whole in [0, 1].
            weights: the images' weights, one positive number each; default: all equal.
            unlike_weight: what similarity with `unlike` costs, relative to similarity with `images`.
            views: how many views of each image the similarity is averaged over: the image itself, then
                slight crops and tints of it, which keep all that it shows. What a model sees in one
                exact picture only is then not worth a word. 1 takes the image as it is.
            shortest: return the shortest prompt that reaches this share, in (0, 1], of the best
                similarity; `candidates` then shows similarity against length.
            restarts: random starts, searched in one batch.
            token_cost: what a token must add to be worth its place, as a share of the spread (standard
                deviation) of the similarity of random prompts. It drops tokens that say more of the
                model than of the image. 0 fills all places.
            max_steps, max_evaluations, deadline, patience, top_k, seed, callback: see `run_search`.
            progress: a progress bar with the best text so far, on a terminal or in a notebook.

        Returns:
            The prompt. Its score is the similarity with the images as they are, of the text as the
            model's own tokenizer reads it; candidates are in the order of the search's own score.

        Raises:
            ImageError: an image is unreadable, or there is none.
            TemplateError: the template has no slot, or several, or leaves too little room.
            VocabularyError: no token is left to search over.
            SearchError: no prompt survives the round trip.
            NonFiniteError: the features are NaN or infinite.
        """
        options = _Options(
            num_tokens=num_tokens, template=template, initial_prompt=initial_prompt, unlike=unlike, banned=banned,
            vocabulary=vocabulary, text=text, weights=weights, text_weight=text_weight, unlike_weight=unlike_weight,
            views=views, shortest=shortest, restarts=restarts, max_steps=max_steps, max_evaluations=max_evaluations,
            deadline=deadline, patience=patience, token_cost=token_cost, top_k=top_k, seed=seed, callback=callback,
            progress=progress,
        )  # fmt: skip
        return self._invert([images], options)[0]

    def invert_each(
        self, images: "Sequence[ImageInput] | Tensor", *, batch_size: int = 16, **options: Any
    ) -> list[HardPrompt]:
        """One prompt for each image, searched in batches of `batch_size` images.

        Takes the options of `invert`; a deadline is for the whole call. Raises what `invert` raises.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        chosen = _Options(**options)
        batches = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
        if not batches:
            raise ImageError("no images; give at least one")
        if chosen.deadline is not None:
            chosen = dataclasses.replace(chosen, deadline=chosen.deadline / len(batches))
        return [prompt for batch in batches for prompt in self._invert(list(batch), chosen)]

    def score(self, text: str, images: "ImageInput | Sequence[ImageInput] | Tensor") -> float:
        """The mean cosine similarity of a text with images, in [-1, 1]."""
        features = _features(self.backend, images, views=1, seed=0)
        return float((self.backend.encode_texts([text]) @ features.T).mean())

    # --- targets --------------------------------------------------------------------------

    def _targets(self, backend: Backend, tasks: Sequence[Any], options: _Options, views: int) -> list[_Target]:
        """What each task's prompt is to resemble, in the eyes of `backend`."""
        extra: list[tuple[Tensor, float]] = []
        share = 1.0
        if options.text is not None:
            extra.append((backend.encode_texts([options.text]), options.text_weight))
            share -= options.text_weight
        if options.unlike is not None:
            extra.append((_features(backend, options.unlike, views, options.seed), -options.unlike_weight))
        targets = []
        for task in tasks:
            own = _features(backend, task, views, options.seed)
            weights = _checked_weights(options.weights, len(own))
            parts = [share * weights / weights.sum(), *(torch.full((len(f),), w / len(f)) for f, w in extra)]
            targets.append(_Target(torch.cat([own, *(f for f, _ in extra)]), torch.cat(parts).to(own.device)))
        return targets

    # --- search ---------------------------------------------------------------------------

    def _invert(self, tasks: Sequence[Any], options: _Options) -> list[HardPrompt]:
        """One prompt for each task, all searched in one batch."""
        slot = PromptTemplate(options.template)
        words = self.backend.vocabulary.narrowed(options.vocabulary, options.banned)
        seen = self._targets(self.backend, tasks, options, options.views)
        objective = self._objective(seen, slot)
        check_length(options.num_tokens, objective.free_tokens(), slot, self.backend.name)
        seed = torch.seed() % 2**31 if options.seed is None else options.seed
        rows = len(tasks) * options.restarts
        initial = random_starts(words, rows, options.num_tokens, seed, options.initial_prompt)
        groups = torch.arange(len(tasks), device=initial.device).repeat_interleave(options.restarts)
        limits = (options.max_steps, options.max_evaluations, options.deadline, options.patience)
        with tqdm(disable=None if options.progress else True, desc=self.method, unit="step", leave=False) as bar:
            results = run_search(
                self.search,
                objective,
                self._score(objective, tasks, options, slot),
                words,
                initial,
                groups=groups,
                template=slot,
                max_steps=DEFAULT_MAX_STEPS if all(limit is None for limit in limits) else options.max_steps,
                max_evaluations=options.max_evaluations,
                deadline=options.deadline,
                patience=options.patience,
                token_cost=options.token_cost * _spread(objective, words, options.num_tokens, seed),
                top_k=options.top_k,
                seed=seed,
                callback=on_bar(options.callback, bar),
            )
        prompts = []
        plain = seen if options.views == 1 else self._targets(self.backend, tasks, options, views=1)
        for own, shown, result in zip(plain, seen, results, strict=True):
            candidates = result.candidates
            if options.shortest is not None:
                candidates = self._by_length(result, shown, words, slot, options.shortest, seed)
            settings = {"views": options.views, "restarts": options.restarts}
            prompts.append(self._prompt(own, candidates, result, slot, settings))
        return prompts

    def _objective(self, targets: Sequence[_Target], template: PromptTemplate) -> FeatureSimilarity:
        """The similarity with each task's weighted mean target, which equals the weighted mean similarity."""
        means = torch.stack([target.mean for target in targets]).unsqueeze(1)  # (tasks, 1, features)
        ones = torch.ones(means.shape[:2], device=means.device)
        return FeatureSimilarity(self.backend.text_encoder, means, ones, template)

    def _score(
        self, objective: FeatureSimilarity, tasks: Sequence[Any], options: _Options, template: PromptTemplate
    ) -> Score:
        if self.judge is None:
            return objective
        targets = self._targets(self.judge, tasks, options, options.views)
        return JudgedSimilarity(self.judge, self.backend, torch.stack([target.mean for target in targets]), template)

    def _by_length(
        self,
        result: SearchResult,
        target: _Target,
        vocabulary: Vocabulary,
        template: PromptTemplate,
        share: float,
        seed: int,
    ) -> tuple[Candidate, ...]:
        """The best prompt of each length, shortest first as far as it reaches `share` of the best score."""
        objective = self._objective([target], template)
        found = [result.best]
        same_length = Refine(insert=False, delete=False)
        while len(found[-1].token_ids) > 1 and found[-1].score >= share * found[0].score:
            ids = found[-1].token_ids
            shorter = torch.tensor([ids[:i] + ids[i + 1 :] for i in range(len(ids))])
            (next_result,) = run_search(
                same_length, objective, objective, vocabulary, shorter, template=template, max_steps=200, seed=seed
            )
            found.append(next_result.best)
        reaching = [c for c in reversed(found) if c.score >= share * found[0].score]
        return (*reaching, *(c for c in found if c not in reaching))

    def _prompt(
        self,
        target: _Target,
        candidates: Sequence[Candidate],
        result: SearchResult,
        template: PromptTemplate,
        provenance: dict[str, Any],
    ) -> HardPrompt:
        """The result as people get it, scored on its text by the model's own tokenizer."""
        scores = self._text_scores([c.text for c in candidates], target, template)
        best = candidates[0]
        vocabulary = self.backend.vocabulary
        without = [vocabulary.decode(best.token_ids[:i] + best.token_ids[i + 1 :]) for i in range(len(best.token_ids))]
        stop_reason = result.stop_reason
        try:
            attributions = tuple(scores[0] - score for score in self._text_scores(without, target, template))
        except KeyboardInterrupt:  # the prompt is found; nobody shall lose it to what is told of it
            attributions, stop_reason = (), "interrupted"
        return HardPrompt(
            text=best.text,
            token_ids=best.token_ids,
            score=scores[0],
            template=template.text,
            model=self.backend.name,
            method=self.method,
            tokens=vocabulary.token_texts(best.token_ids),
            attributions=attributions,
            candidates=tuple(dataclasses.replace(c, score=s) for c, s in zip(candidates, scores, strict=True)),
            history=result.history,
            seed=result.seed,
            stop_reason=stop_reason,
            evaluations=result.evaluations,
            provenance={
                **provenance,
                "hardprompts": importlib.metadata.version("hardprompts"),
                "torch": torch.__version__,
                "steps": result.steps,
                "seconds": round(result.seconds, 3),
            },
        )

    def _text_scores(self, texts: Sequence[str], target: _Target, template: PromptTemplate) -> list[float]:
        features = self.backend.encode_texts([template.fill(text) for text in texts])
        scores: list[float] = (features @ target.mean).tolist()
        return scores


def _features(backend: Backend, images: Any, views: int, seed: int | None) -> Float[Tensor, "images features"]:
    """Features of images, the mean over their views; or unit features, as they were given.

    Raises:
        ImageError: see `load_images`.
        NonFiniteError: features are NaN or infinite.
    """
    width = backend.encode_texts(["a"]).shape[1]
    if isinstance(images, Tensor) and images.ndim <= 2 and images.shape[-1] == width:
        features = normalize(images.detach().reshape(-1, width).to(backend.device))
    else:
        loaded = load_images(images)
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
        pictures = [view for image in loaded for view in augmented_views(image, views, generator)]
        features = backend.encode_images(pictures).reshape(len(loaded), views, -1).mean(dim=1)
    if not features.isfinite().all():
        raise NonFiniteError("the image features are NaN or infinite; check the image, or use dtype=torch.float32")
    return features


def _spread(objective: FeatureSimilarity, vocabulary: Vocabulary, num_tokens: int, seed: int) -> float:
    """The standard deviation of the score of random prompts, the mean over the tasks: the model's own unit."""
    ids = vocabulary.sample((32, num_tokens), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features = objective.features(vocabulary.embed(ids))
    scores = [(features @ target).std() for target in objective.mean_targets]
    return float(torch.stack(scores).mean())


def _checked_weights(weights: Sequence[float] | None, count: int) -> Tensor:
    checked = torch.ones(count) if weights is None else torch.tensor(list(weights), dtype=torch.float32)
    if len(checked) != count or not bool((checked > 0).all()) or not bool(checked.isfinite().all()):
        raise ValueError(f"weights must be {count} positive numbers, one for each image, got {weights}")
    return checked
