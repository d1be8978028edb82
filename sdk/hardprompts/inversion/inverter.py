"""PromptInverter: images become a prompt."""

import dataclasses
import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from hardprompts.encoders import Backend, join_backends, load_backend
from hardprompts.errors import ImageError
from hardprompts.images import ImageInput, load_images
from hardprompts.inversion.readability import (
    ReadableScore,
    TextLikelihood,
    open_likelihood,
    pareto_front,
    real_words,
)
from hardprompts.inversion.required import _Required
from hardprompts.inversion.targets import _checked_weights, _features, _Target
from hardprompts.methods import Refine
from hardprompts.methods.banks import encode_beginning
from hardprompts.methods.phrase_bank import Prepared
from hardprompts.objectives import FeatureSimilarity, JudgedSimilarity, Score, check_length
from hardprompts.prompts import Candidate, HardPrompt, PromptTemplate, TradeOff
from hardprompts.search.loop import run_search
from hardprompts.search.progress import on_bar
from hardprompts.search.protocol import Callback, Search, SearchResult
from hardprompts.search.registry import DEFAULT_METHOD, search_method
from hardprompts.search.rows import NO_TOKEN, random_starts
from hardprompts.vocabulary import Vocabulary

#: Any image-to-text model: RGB images become one caption each.
Captioner = Callable[[Sequence[Image.Image]], Sequence[str]]

#: Steps of a method that would never stop by itself.
DEFAULT_MAX_STEPS = 1000

#: What a token must add for images, as a share of the spread of the similarity of random prompts.
TOKEN_COST = 0.15

#: Candidates of a search that similarity, length and fluency are weighed among.
PARETO_POOL = 256


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
    words: bool | Sequence[str] | None = None
    required: Sequence[str] = ()
    penalties: Mapping[str, float] = dataclasses.field(default_factory=dict)
    repetition_penalty: float = 0.0
    prior_weight: float = 0.1
    caption: str | None = None
    pareto: bool = False
    restarts: int = 16
    max_steps: int | None = None
    max_evaluations: int | None = None
    deadline: float | None = None
    patience: int | None = None
    token_cost: float | None = None
    top_k: int = 10
    seed: int | None = None
    callback: Callback | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("required", "words"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} takes a list of words, got the text {getattr(self, name)!r}")
        if not all(word.strip() for word in (*self.required, *self.penalties)):
            raise ValueError("a required word, or a key of penalties, is empty; remove it")
        if not all(math.isfinite(cost) for cost in (*self.penalties.values(), self.repetition_penalty)):
            raise ValueError(f"penalties must be finite, got {dict(self.penalties)}, {self.repetition_penalty}")
        if not 0 <= self.prior_weight < math.inf:
            raise ValueError(f"prior_weight must be finite and not negative, got {self.prior_weight}")
        if self.initial_prompt is not None and self.caption is not None:
            raise ValueError("give an initial_prompt, which all restarts begin with, or a caption, not both")
        if self.token_cost is not None and self.token_cost < 0:
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
        prior: a causal language model, by name or open, or any function of texts that returns their
            log-likelihoods: prompts that it finds likely are preferred, see `prior_weight`. It reads text, so its
            tokenizer may be any, and it is asked for every prompt that is scored: a small one will do.
        captioner: a function from RGB images to a caption each, which half of the restarts begin with. Of
            several images that share a prompt, the first is captioned.

    Raises:
        UnknownName, BackendError: see `load_backend`; or the prior is no causal language model.

    Source: PEZ, arXiv 2302.03668, section 4.
    """

    def __init__(
        self,
        backend: "str | Backend | Sequence[str | Backend]" = "emoji",
        method: str | Search = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        judge: "str | Backend | None" = None,
        prior: "str | Backend | TextLikelihood | None" = None,
        captioner: Captioner | None = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return load_backend(model, device=device, dtype=dtype) if isinstance(model, str) else model

        models = [backend] if isinstance(backend, str | Backend) else list(backend)
        self.backend = join_backends([opened(model) for model in models])
        self.judge = None if judge is None else opened(judge)
        self.prior = None if prior is None else open_likelihood(prior, device=device, dtype=dtype)
        self.captioner = captioner
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
        words: bool | Sequence[str] | None = None,
        required: Sequence[str] = (),
        penalties: Mapping[str, float] | None = None,
        repetition_penalty: float = 0.0,
        prior_weight: float = 0.1,
        caption: str | None = None,
        pareto: bool = False,
        restarts: int = 16,
        max_steps: int | None = None,
        max_evaluations: int | None = None,
        deadline: float | None = None,
        patience: int | None = None,
        token_cost: float | None = None,
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
            banned: strings that must not occur in the prompt, whatever their case. Slurs and swear words must not
                either; "none", or "none" among the strings, lifts that list.
            vocabulary: phrases whose words alone may be used (a keyword bank), or a `Vocabulary`, which is used
                as it is.
            text: a text that the prompt should resemble too, with `text_weight` of the whole in [0, 1].
            weights: the images' weights, one positive number each; default: all equal.
            unlike_weight: what similarity with `unlike` costs, relative to similarity with `images`.
            views: how many views of each image the similarity is averaged over: the image itself, then
                slight crops and tints of it, which keep all that it shows. What a model sees in one
                exact picture only is then not worth a word. 1 takes the image as it is.
            shortest: return the shortest prompt that reaches this share, in (0, 1], of the best
                similarity; `candidates` then shows similarity against length.
            words: True: only tokens that are real words, of the letters of one script; a list of words: only these,
                some of which may have several tokens; False: any tokens. Default: real words, if the model has
                enough of them and `vocabulary` is not given.
            required: words that the prompt begins with, in this order; the search fills the rest.
            penalties: strings, and what each occurrence of one costs, as a share of the spread (see
                `token_cost`); below 0 it is a reward. Words that must not occur at all are `banned`.
            repetition_penalty: what each word costs that stands in the prompt already, likewise.
            prior_weight: what a nat of the prior's log-likelihood for each word is worth, likewise.
            caption: text that half of the restarts begin with, as far as it fits, and that phrase banks continue;
                default: what the captioner says, if there is one.
            pareto: `candidates` are then the prompts that no other betters in similarity, length and, with
                a prior, fluency at once, most similar first behind the best; `provenance["pareto"]` has the numbers.
            restarts: random starts, searched in one batch.
            token_cost: what a token must add to be worth its place, as a share of the spread (standard
                deviation) of the similarity of random prompts. It drops tokens that say more of the
                model than of the image. 0 fills all places. Default: 0.15, and 0 for a model of text alone, where
                there is no image to say less of.
            max_steps, max_evaluations, deadline, patience, top_k, seed, callback: see `run_search`.
            progress: a progress bar with the best text so far, on a terminal or in a notebook.

        Returns:
            The prompt. Its score is the similarity with the images as they are, of the text as the
            model's own tokenizer reads it; candidates are in the order of the search's own score.

        Raises:
            ImageError: an image is unreadable, or there is none.
            TemplateError: the template has no slot, or several, or leaves too little room.
            VocabularyError: no token is left to search over, or the model has no tokens for a required word.
            SearchError: no prompt survives the round trip.
            NonFiniteError: the features, or the likelihoods of the prior, are NaN or infinite.
        """
        options = _Options(
            num_tokens=num_tokens, template=template, initial_prompt=initial_prompt, unlike=unlike, banned=banned,
            vocabulary=vocabulary, text=text, weights=weights, text_weight=text_weight, unlike_weight=unlike_weight,
            views=views, shortest=shortest, words=words, required=required, penalties=dict(penalties or {}),
            repetition_penalty=repetition_penalty, prior_weight=prior_weight, caption=caption, pareto=pareto,
            restarts=restarts, max_steps=max_steps, max_evaluations=max_evaluations,
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
        captions = self._captions(tasks, options)
        words = self._words(options, captions)
        required = _Required.create(options.required, words, slot)
        seen = self._targets(self.backend, tasks, options, options.views)
        plain = seen if options.views == 1 else self._targets(self.backend, tasks, options, views=1)
        if self._opposed:
            seen = [target.opposite for target in seen]
        objective = self._objective(seen, required.template)
        num_tokens = options.num_tokens - len(required.token_ids)
        if required.token_ids and num_tokens < 1:
            raise ValueError(
                f"the required words have {len(required.token_ids)} tokens, which leaves nothing to search for in a "
                f"prompt of num_tokens = {options.num_tokens}; use more tokens"
            )
        check_length(num_tokens, objective.free_tokens(), required.template, self.backend.name)
        seed = torch.seed() % 2**31 if options.seed is None else options.seed
        rows = len(tasks) * options.restarts
        initial = random_starts(words, rows, num_tokens, seed, options.initial_prompt)
        _begin_with(captions, initial, words, options.restarts)
        groups = torch.arange(len(tasks), device=initial.device).repeat_interleave(options.restarts)
        limits = (options.max_steps, options.max_evaluations, options.deadline, options.patience)
        spread = _spread(objective, words, num_tokens, seed)
        score = self._score(objective, tasks, options, required.template)
        with tqdm(disable=None if options.progress else True, desc=self.method, unit="step", leave=False) as bar:
            results = run_search(
                self._prepared(objective, required.template, captions),
                objective,
                self._readable(score, words, required.template, options, spread),
                words,
                initial,
                groups=groups,
                template=required.template,
                max_steps=DEFAULT_MAX_STEPS if all(limit is None for limit in limits) else options.max_steps,
                max_evaluations=options.max_evaluations,
                deadline=options.deadline,
                patience=options.patience,
                score_per_token=self._token_cost(options) * spread,
                top_k=max(options.top_k, PARETO_POOL) if options.pareto else options.top_k,
                seed=seed,
                callback=on_bar(options.callback, bar),
            )
        prompts = []
        for own, shown, result in zip(plain, seen, results, strict=True):
            candidates = result.candidates
            settings: dict[str, Any] = {"views": options.views, "restarts": options.restarts}
            if options.shortest is not None or options.pareto:
                by_length = self._by_length(result, shown, words, required.template, options.shortest, seed)
                candidates = by_length if options.shortest is not None else (*candidates, *by_length)
            candidates = required.whole(candidates, self.backend.vocabulary, slot)
            if options.pareto:
                candidates, settings["pareto"] = self._weighed(candidates, own, slot)
            prompts.append(self._prompt(own, candidates, result, slot, settings))
        return prompts

    def _token_cost(self, options: _Options) -> float:
        if options.token_cost is not None:
            return options.token_cost
        return 0.0 if self.backend.image_encoder is None else TOKEN_COST

    @property
    def _opposed(self) -> bool:
        """Whether the method looks for what fits least."""
        return isinstance(self.search, Prepared) and self.search.opposed

    def _words(self, options: _Options, captions: Sequence[str | None]) -> Vocabulary:
        """The vocabulary that was asked for, with the words of several tokens of the texts that a search begins with.

        Raises:
            VocabularyError: no token is left.
        """
        real: bool | None
        if options.words is None or isinstance(options.words, bool):
            listed, real = None, options.words
        else:
            listed, real = options.words, False
        whole_phrases = isinstance(self.search, Prepared)
        if whole_phrases and real is None:
            real = False
        words = self.backend.vocabulary.narrowed(options.vocabulary, options.banned, real)
        if listed is not None:
            return real_words(words, listed)
        if whole_phrases:
            return dataclasses.replace(words, compounds=()) if words.compounds else words
        if options.vocabulary is not None:
            return words
        return words.with_words(text for text in (options.initial_prompt, *captions) if text is not None)

    def _captions(self, tasks: Sequence[Any], options: _Options) -> list[str | None]:
        """What each task's restarts begin with, if anything."""
        if options.caption is not None or self.captioner is None or options.initial_prompt is not None:
            return [options.caption] * len(tasks)
        if any(isinstance(task, Tensor) and task.ndim <= 2 for task in tasks):
            raise ImageError("a captioner needs images, and was given features; pass images, or caption='...'")
        pictures = [load_images(task)[0] for task in tasks]
        captions = list(self.captioner(pictures))
        if len(captions) != len(pictures):
            raise ValueError(
                f"the captioner gave {len(captions)} captions for {len(pictures)} images; it must give one each"
            )
        return [*captions]

    def _prepared(
        self, objective: FeatureSimilarity, template: PromptTemplate, captions: Sequence[str | None]
    ) -> Search:
        if not isinstance(self.search, Prepared):
            return self.search
        return self.search.prepared(self.backend, objective.mean_targets, template, captions)

    def _readable(
        self, score: Score, words: Vocabulary, template: PromptTemplate, options: _Options, spread: float
    ) -> Score:
        """The score with what is asked of the text; the score itself if nothing is."""
        weight = options.prior_weight if self.prior is not None else 0.0
        if not weight and not options.penalties and not options.repetition_penalty:
            return score
        penalties = tuple(
            (" ".join(string.lower().split()), cost * spread) for string, cost in options.penalties.items()
        )
        return ReadableScore(
            score, words, template, self.prior, weight * spread, penalties, options.repetition_penalty * spread
        )

    def _weighed(
        self, candidates: Sequence[Candidate], target: _Target, template: PromptTemplate
    ) -> tuple[tuple[Candidate, ...], list[dict[str, Any]]]:
        """The best, then what no other candidate betters, and the numbers of these."""
        sign = -1.0 if self._opposed else 1.0
        scores = [sign * score for score in self._text_scores([c.text for c in candidates], target, template)]
        scored = [dataclasses.replace(c, score=score) for c, score in zip(candidates, scores, strict=True)]
        front: list[TradeOff] = list(pareto_front(scored, self.prior, template))
        numbers = [
            {"text": t.candidate.text, "similarity": sign * t.similarity, "tokens": t.tokens, "fluency": t.fluency}
            for t in front
        ]
        others = [trade.candidate for trade in front if trade.candidate.text != scored[0].text]
        return (scored[0], *others), numbers

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
        if self._opposed:
            targets = [target.opposite for target in targets]
        return JudgedSimilarity(self.judge, self.backend, torch.stack([target.mean for target in targets]), template)

    def _by_length(
        self,
        result: SearchResult,
        target: _Target,
        vocabulary: Vocabulary,
        template: PromptTemplate,
        share: float | None,
        seed: int,
    ) -> tuple[Candidate, ...]:
        """The best prompt of each length, shortest first as far as it reaches `share` of the best score; None: all."""
        objective = self._objective([target], template)
        # By similarity alone, also where something else had a say in the search.
        best = torch.tensor([result.best.token_ids], device=vocabulary.table.device)
        similarity = float(objective.score(best, torch.zeros(1, dtype=torch.long, device=best.device)))
        found = [dataclasses.replace(result.best, score=similarity)]
        same_length = Refine(insert=False, delete=False)
        least = -math.inf if share is None else share * found[0].score
        while len(found[-1].token_ids) > 1 and found[-1].score >= least:
            ids = found[-1].token_ids
            shorter = torch.tensor([ids[:i] + ids[i + 1 :] for i in range(len(ids))])
            (next_result,) = run_search(
                same_length, objective, objective, vocabulary, shorter, template=template, max_steps=200, seed=seed
            )
            found.append(next_result.best)
        reaching = [c for c in reversed(found) if c.score >= least]
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


def _begin_with(
    captions: Sequence[str | None], initial: Int[Tensor, "rows tokens"], vocabulary: Vocabulary, restarts: int
) -> None:
    """Lets half of each task's restarts begin with its caption; the first is nothing else."""
    for task, caption in enumerate(captions):
        ids = encode_beginning(caption or "", vocabulary, initial.shape[1])
        if not ids:
            continue
        first = task * restarts
        initial[first : first + max(1, restarts // 2), : len(ids)] = torch.tensor(ids, device=initial.device)
        initial[first, len(ids) :] = NO_TOKEN


def _spread(objective: FeatureSimilarity, vocabulary: Vocabulary, num_tokens: int, seed: int) -> float:
    """The standard deviation of the score of random prompts, the mean over the tasks: the model's own unit."""
    ids = vocabulary.sample((32, num_tokens), torch.Generator().manual_seed(seed))
    with torch.no_grad():
        features = objective.features(vocabulary.embed(ids))
    scores = [(features @ target).std() for target in objective.mean_targets]
    return float(torch.stack(scores).mean())
