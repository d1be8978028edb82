"""PromptDistiller: long prompts and soft prompts become short hard prompts, and a number says how faithful they are."""

import dataclasses
import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from tqdm.auto import tqdm

from hardprompts.classification.prompted import language_model
from hardprompts.diffusion.features import backend_of, conditioning_encoder
from hardprompts.diffusion.noise_prediction import NoiseBank
from hardprompts.diffusion.sampling import own_latents
from hardprompts.distillation.faithfulness import DistilledPrompt, Faithfulness, LostPhrase, Share
from hardprompts.distillation.features import FeatureMatch, MeanFeatureMatch, match_features
from hardprompts.distillation.matching import Match, MeanMatch, Windows
from hardprompts.distillation.noises import match_noise
from hardprompts.distillation.originals import Original, Teacher, phrases_of, without_phrase, words_of
from hardprompts.distillation.outputs import match_outputs
from hardprompts.distillation.states import ContextStates, match_states
from hardprompts.encoders import Backend, ConditioningEncoder, NoisePredictor, join_backends, load_backend, normalize
from hardprompts.errors import BackendError, SearchError, TemplateError, VocabularyError
from hardprompts.images import ImageInput, load_images
from hardprompts.inversion.inverter import DEFAULT_MAX_STEPS
from hardprompts.methods.build_refine import BuildRefine
from hardprompts.methods.pez_refine import PEZRefine
from hardprompts.methods.selection import Selection
from hardprompts.noise import LATE, NoiseWindow
from hardprompts.objectives import check_length
from hardprompts.prompts import SLOT, Candidate, PromptTemplate
from hardprompts.search.loop import run_search
from hardprompts.search.progress import on_bar
from hardprompts.search.protocol import Callback, Search, SearchResult
from hardprompts.search.registry import DEFAULT_METHOD, language_model_search, search_method
from hardprompts.search.rows import NO_TOKEN, pack, random_starts
from hardprompts.softprompts import decode_nearest
from hardprompts.vocabulary import EmbeddedTemplate, Vocabulary

#: What is matched.
Quantity = Literal["auto", "features", "hidden_states", "noise", "outputs"]

#: Baselines that replace the search: the tokens nearest to a soft prompt, by cosine and by L2,
#: and the best words of a long one.
BASELINES = ("nearest", "nearest-l2", "selection")

#: Where faithfulness is also measured, if these are other templates than those that were searched in.
HELD_OUT = ("a picture of {}", "{}", "this is {} as we know it", "a photo of {}", "the {} over there")

#: The same for language models; each has text after the slot, so that an empty slot leaves something to continue.
BEHIND_PROMPTS = ("{} It was", "{} This is", "{} We")

#: Tokens of a prompt for a soft prompt of fewer.
DEFAULT_TOKENS = 8

#: What a token must add where a soft prompt is decoded, as a share of the spread of the score of random prompts.
TOKEN_COST = 0.05

#: Random prompts that tell how far words of any kind are from an original; fewer where a denoiser judges.
RANDOM_PROMPTS, RANDOM_PROMPTS_OF_NOISE = 16, 4

#: Passes of the text encoder by which a search that polishes noise predictions finds where to start, how many of the
#: prompts found so are taken, and tokens that are then tried in each place: a pass of the denoiser costs some fifty of
#: the text encoder's, and prompts with the same features are most of the way to the same pictures.
EXPLORATION, EXPLORED, POLISH_CANDIDATES = 4_000, 8, 16

#: Reasons to stop that are the user's, for everything that would have followed.
ENDED = ("cancelled", "interrupted")

#: A phrase of which the short prompt keeps less than this is lost; at most so many are listed.
KEPT, MAX_LOST = 0.5, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What `PromptDistiller.distill` takes beside the original; explained there."""

    num_tokens: int | None = None
    ratio: float | None = None
    inside: str | Sequence[str] = SLOT
    match: Quantity = "auto"
    held_out: Sequence[str] | None = None
    images: Any = None
    answers: Sequence[str] = ()
    texts_per_step: int | None = None
    initial_prompt: str | None = None
    banned: Sequence[str] = ()
    vocabulary: Sequence[str] | Vocabulary | None = None
    window: NoiseWindow = LATE
    num_noises: int = 16
    noises_per_step: int | None = 4
    batch_size: int = 8
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
        if self.match not in get_args(Quantity):
            raise ValueError(f"match must be one of {', '.join(get_args(Quantity))}, got {self.match!r}")
        if self.num_tokens is not None and self.ratio is not None:
            raise ValueError(f"give num_tokens or ratio, not both, got {self.num_tokens} and {self.ratio}")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")
        for name in ("num_tokens", "num_noises", "batch_size", "texts_per_step", "restarts", "top_k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.token_cost is not None and self.token_cost < 0:
            raise ValueError(f"token_cost must not be negative, got {self.token_cost}")
        if not self.templates:
            raise TemplateError('inside has no template; give one with "{}", or several')

    @property
    def templates(self) -> tuple[PromptTemplate, ...]:
        """Those that the prompt is matched in."""
        given = [self.inside] if isinstance(self.inside, str) else self.inside
        return tuple(PromptTemplate(text) for text in dict.fromkeys(given))

    def other_templates(self, plain: Sequence[str] = HELD_OUT) -> tuple[PromptTemplate, ...]:
        """Those that faithfulness is measured in beside them: the given ones, or `plain` ones."""
        given = plain if self.held_out is None else self.held_out
        own = {template.text for template in self.templates}
        return tuple(PromptTemplate(text) for text in dict.fromkeys(given) if text not in own)


@dataclasses.dataclass(frozen=True, eq=False)
class _Matches:
    """What a search of some tasks follows, and what is measured of its result besides.

    Attributes:
        kind: of the quantity; never "auto".
        followed: what is matched.
        held_out: the same elsewhere; nothing where the originals leave no room.
        described: what is compared in either, in words.
    """

    kind: Quantity
    followed: Match
    held_out: tuple[Match, ...]
    described: tuple[str, str]


class PromptDistiller:
    """Turns long prompts and soft prompts into short hard prompts that make a model do the same.

    Args:
        backend: a model's name for `load_backend`, an open `Backend`, a `ConditioningEncoder` (a `NoisePredictor` is
            one), or several models, which then agree on one prompt.
        method: a name from `hardprompts.search_methods()`, a method with its own hyperparameters, or a baseline:
            "nearest" and "nearest-l2" decode a soft prompt to the nearest tokens, "selection" takes the best words
            of a long prompt.
        device, dtype: for models that are given by name; see `load_backend`.

    Raises:
        UnknownName, BackendError: see `load_backend`.

    Source: distillation of texts, PEZ, arXiv 2302.03668, section 4.4. Decoding a soft prompt by what it does, and
    faithfulness, are this project's.
    """

    def __init__(
        self,
        backend: "str | Backend | ConditioningEncoder | Sequence[str | Backend]" = "emoji",
        method: str | Search = DEFAULT_METHOD,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        def opened(model: str | Backend) -> Backend:
            return load_backend(model, device=device, dtype=dtype) if isinstance(model, str) else model

        if isinstance(backend, ConditioningEncoder):
            self.backend = backend_of(backend)
        else:
            models = [backend] if isinstance(backend, str | Backend) else list(backend)
            self.backend = join_backends([opened(model) for model in models])
        self.method = method if isinstance(method, str) else repr(method)
        self.search = None if method in BASELINES else search_method(method)
        if isinstance(method, str) and self.search is not None and self.backend.language_model is not None:
            self.search = language_model_search(self.search)

    def distill(
        self,
        what: Original,
        num_tokens: int | None = None,
        ratio: float | None = None,
        inside: str | Sequence[str] = SLOT,
        *,
        match: Quantity = "auto",
        held_out: Sequence[str] | None = None,
        images: "ImageInput | Sequence[ImageInput] | None" = None,
        answers: Sequence[str] = (),
        texts_per_step: int | None = None,
        initial_prompt: str | None = None,
        banned: Sequence[str] = (),
        vocabulary: "Sequence[str] | Vocabulary | None" = None,
        window: NoiseWindow = LATE,
        num_noises: int = 16,
        noises_per_step: int | None = 4,
        batch_size: int = 8,
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
    ) -> DistilledPrompt:
        """The hard prompt that makes the model do what a long or a soft prompt does, and its faithfulness.

        Args:
            what: a prompt (`str`, or a `HardPrompt`, of which the whole text is taken), a `SoftPrompt`, the
                `Path` of a soft prompt's file, or a bare (tokens, dim) tensor of the model's width. A `str` is
                always a prompt, never a path.
            num_tokens: the most tokens of the hard prompt; default: 8, or as many as a soft prompt has if these
                are more, or a text if fewer.
            ratio: the same as a share of the original's tokens, in (0, 1].
            inside: the template in which the original stands, and the hard prompt instead of it: "a photo of {}".
                Several templates: the mean over them; the prompt survives the round trip in each.
            match: what is to be the same. "features": the text features (cosine). "hidden_states": the states of
                the text encoder, a denoiser's conditioning, place by place (see `matching.StateMatch`). "noise": what
                the denoiser predicts on a fixed bank of noises. "outputs": what a language model finds likely behind
                the templates' ends (see `language_matching.OutputMatch`). "auto": the outputs of a language model; the
                states if the model has a denoiser and sees the original whole; else the features.
            held_out: templates that faithfulness is measured in besides; default: a few plain ones, or none beside
                `answers`.
            images: for "noise", pictures of what the original says, which are noised; default: the denoiser makes
                some of its own under the original.
            answers: for "outputs", words one space behind the templates' ends, whose likelihoods among each other are
                matched (the label words of a classifier, say); default: the likelihoods of all next tokens.
            texts_per_step: for "outputs", templates drawn for each gradient; default: all.
            initial_prompt: text to start from, beside the starts that the original gives (its nearest tokens, or
                its own best words) and random ones.
            banned: strings that must not occur in the prompt, whatever their case.
            vocabulary: phrases whose tokens alone may be used (a keyword bank), or a `Vocabulary`.
            window, num_noises, noises_per_step, batch_size: of "noise"; see `DenoisingOptions`.
            restarts: starts, searched in one batch.
            token_cost: what a token must add to be worth its place, as a share of the spread (standard deviation)
                of the score of random prompts; default: 0.05 for a soft prompt, which drops tokens that count in
                one template only, and 0 for a text, whose length is what was asked for.
            max_steps, max_evaluations, deadline, patience, top_k, seed, callback: see `run_search`. The choice of a
                long prompt's best words, from which the search then starts, takes up to a third of the time and
                the evaluations; the default's exploration for "noise" up to a third of the time, and its passes of
                the text encoder, 4,000 at most, come on top of the evaluations.
            progress: a progress bar with the best text so far, on a terminal or in a notebook.

        Returns:
            The prompt. `faithfulness` says what share of the original's effect it keeps, in what was matched and in
            what was not. Its score is 1 less the distance that was matched: for "features" the cosine similarity.
            Of a long prompt, `lost` are the phrases that it does not say. A text that is longer than the context
            is taken window by window; its features are the mean over the windows, weighted with their tokens.

        Raises:
            ValueError: an empty original, one with NaN, or an argument out of range.
            BackendError: a soft prompt of another model, or the model lacks what is to be matched.
            FileFormatError: the file holds no soft prompt.
            TemplateError: a template has no slot, or several, or the context has too little room.
            VocabularyError: no token is left to search over.
            SearchError: no prompt survives the round trip in every template.
            NonFiniteError: the model returns NaN or infinity.
        """
        options = _Options(
            num_tokens=num_tokens, ratio=ratio, inside=inside, match=match, held_out=held_out, images=images,
            initial_prompt=initial_prompt, banned=banned, vocabulary=vocabulary, window=window,
            num_noises=num_noises, noises_per_step=noises_per_step, batch_size=batch_size, answers=answers,
            texts_per_step=texts_per_step, restarts=restarts, max_steps=max_steps, max_evaluations=max_evaluations,
            deadline=deadline, patience=patience, token_cost=token_cost, top_k=top_k, seed=seed, callback=callback,
            progress=progress,
        )  # fmt: skip
        return self._distill([self._teacher(what)], options)[0]

    def distill_each(
        self, originals: Sequence[Original], *, batch_tasks: int = 16, **options: Any
    ) -> list[DistilledPrompt]:
        """One hard prompt for each original; soft prompts are searched in batches of `batch_tasks`.

        Takes the options of `distill`; deadline and evaluations are for the whole call. Raises what it raises.
        """
        if batch_tasks < 1:
            raise ValueError(f"batch_tasks must be at least 1, got {batch_tasks}")
        chosen = _Options(**options)
        teachers = [self._teacher(what) for what in originals]
        batches: list[list[int]] = []
        for index, teacher in enumerate(teachers):
            last = batches[-1] if batches else []
            together = chosen.match != "noise" and teacher.text is None and 0 < len(last) < batch_tasks
            if together and self._num_tokens(teacher, chosen) == self._num_tokens(teachers[last[0]], chosen):
                last.append(index)
            else:
                batches.append([index])
        shares = {
            name: getattr(chosen, name) / len(batches)
            for name in ("deadline", "max_evaluations")
            if getattr(chosen, name) is not None and batches
        }
        if "max_evaluations" in shares:
            shares["max_evaluations"] = round(shares["max_evaluations"])
        chosen = dataclasses.replace(chosen, **shares)
        return [prompt for batch in batches for prompt in self._distill([teachers[i] for i in batch], chosen)]

    def faithfulness(self, text: str, what: Original, **options: Any) -> Faithfulness:
        """How faithful any text is to an original, as that of `distill`, whose options it takes.

        Raises: as `distill`.
        """
        chosen, teacher = _Options(**options), self._teacher(what)
        matches = self._matches([teacher], chosen, 0 if chosen.seed is None else chosen.seed)
        return self._faithfulness(text, matches, 0, self._num_tokens(teacher, chosen))

    # --- originals ------------------------------------------------------------------------

    def _teacher(self, what: Original) -> Teacher:
        return Teacher.of(what, self.backend.vocabulary, self.backend.name)

    @staticmethod
    def _num_tokens(teacher: Teacher, options: _Options) -> int:
        if options.num_tokens is not None:
            return options.num_tokens
        if options.ratio is not None:
            return max(1, round(options.ratio * len(teacher)))
        return min(DEFAULT_TOKENS, len(teacher)) if teacher.text is not None else max(DEFAULT_TOKENS, len(teacher))

    def _room(self, template: PromptTemplate) -> int:
        return EmbeddedTemplate.of(self.backend.vocabulary, template).room(self.backend.text_encoder.max_tokens)

    def _windows(self, teachers: Sequence[Teacher], template: PromptTemplate) -> list[Windows]:
        return [teacher.windows(self._room(template), self.backend.vocabulary) for teacher in teachers]

    # --- what is matched ------------------------------------------------------------------

    def _kind(self, teachers: Sequence[Teacher], options: _Options) -> Quantity:
        """What "auto" means for these originals."""
        if options.match != "auto":
            return options.match
        if self.backend.language_model is not None:
            return "outputs"
        if conditioning_encoder(self.backend) is None:
            return "features"
        whole = all(len(own) == 1 for template in options.templates for own in self._windows(teachers, template))
        try:
            ContextStates.of(self.backend)
        except BackendError:  # a row of states that grows with the prompt: only its mean can be compared
            return "features"
        return "hidden_states" if whole else "features"

    def _matches(self, teachers: Sequence[Teacher], options: _Options, seed: int) -> _Matches:
        kind = self._kind(teachers, options)
        if kind == "noise":
            return self._noise_matches(teachers, options, seed)
        if kind == "outputs":
            return self._output_matches(teachers, options, seed)
        build: Callable[[Backend, Sequence[Windows], PromptTemplate], Match] = (
            match_features if kind == "features" else match_states
        )
        followed = [build(self.backend, self._windows(teachers, one), one) for one in options.templates]
        held_out = []
        needed = max(self._num_tokens(teacher, options) for teacher in teachers)
        for template in options.other_templates():
            windows = self._windows(teachers, template)
            room = self._room(template)
            fits = needed <= room and all(len(window) <= room for own in windows for window in own)
            if fits and (kind == "features" or all(len(own) == 1 for own in windows)):
                held_out.append(build(self.backend, windows, template))
        name = "text features" if kind == "features" else "states of the text encoder"
        return _Matches(kind, _mean(followed), tuple(held_out), (name, f"{name} in other templates"))

    def _output_matches(self, teachers: Sequence[Teacher], options: _Options, seed: int) -> _Matches:
        """What a language model finds likely behind all templates together."""
        model = language_model(self.backend)
        templates = options.templates
        followed = match_outputs(
            model, self._windows(teachers, templates[0]), templates, options.answers,
            sample_size=options.texts_per_step, generator=torch.Generator().manual_seed(seed ^ 0xBA7C4),
        )  # fmt: skip
        needed = max(self._num_tokens(teacher, options) for teacher in teachers)
        needed = max(needed, *map(len, teachers)) + followed.continuations.longest
        asked = options.other_templates(() if options.answers else BEHIND_PROMPTS)
        others = [template for template in asked if needed <= self._room(template)]
        held_out: tuple[Match, ...] = ()
        if others:
            windows = self._windows(teachers, others[0])
            held_out = (match_outputs(model, windows, others, options.answers),)
        name = "likelihood of the answers" if options.answers else "likelihood of the next token"
        return _Matches("outputs", followed, held_out, (name, f"{name} in other templates"))

    def _noise_matches(self, teachers: Sequence[Teacher], options: _Options, seed: int) -> _Matches:
        """The predictions of one original in each template; held out: other noises and noise levels."""
        predictor = self.backend.noise_predictor
        if predictor is None:
            raise BackendError(
                f"{self.backend.name} has no denoiser, so there is no noise to match; open a text-to-image model, as "
                "in diffusers:<folder or hub id>, or use match='features'"
            )
        (teacher,) = teachers
        found: list[list[Match]] = [[], []]
        for template in options.templates:
            for place, matches in enumerate(found):
                own_seed = seed ^ (0x4E015E, 0x0DD)[place]
                matches.append(
                    match_noise(
                        predictor, self._windows([teacher], template)[0],
                        self._bank(predictor, teacher, template, options, own_seed), template,
                        sample_size=None if place else options.noises_per_step,
                        generator=torch.Generator().manual_seed(own_seed ^ 0xBA7C4), batch_size=options.batch_size,
                    )
                )  # fmt: skip
        described = ("predicted noise", "predicted noise at other noises and levels")
        return _Matches("noise", _mean(found[0]), tuple(found[1]), described)

    def _bank(
        self, predictor: NoisePredictor, teacher: Teacher, template: PromptTemplate, options: _Options, seed: int
    ) -> NoiseBank:
        """Noised latents of the images given, or of pictures that the denoiser itself makes of the original."""
        given = None if options.images is None else load_images(options.images)
        task = [(image, 1.0) for image in given or load_images([_gray()])]
        bank = NoiseBank.draw(predictor, [task], items=options.num_noises, window=options.window, seed=seed)
        if given is not None:
            return bank
        fixed = EmbeddedTemplate.of(predictor.vocabulary, template)
        words = teacher.embeddings[None, : self._room(template)].to(predictor.vocabulary.table)
        whole = fixed.around(words)[0]
        generator = torch.Generator().manual_seed(seed)
        made = min(options.num_noises, 4)
        latents = own_latents(predictor, whole, (made, *bank.noisy.shape[2:]), generator)
        latents = latents.repeat(-(-len(bank) // made), *[1] * (latents.ndim - 1))[: len(bank)]
        noise = torch.randn(latents.shape, generator=generator).to(latents)
        levels = predictor.schedule.timesteps.float()
        steps = torch.stack([(levels - t).abs().argmin() for t in bank.timesteps.cpu()])
        noisy, target = predictor.schedule.noised(latents, noise, steps)
        return dataclasses.replace(bank, noisy=noisy[None].to(bank.noisy), target=target[None].to(bank.target))

    # --- search ---------------------------------------------------------------------------

    def _distill(self, teachers: Sequence[Teacher], options: _Options) -> list[DistilledPrompt]:
        """One prompt for each original, all searched in one batch."""
        seed = torch.seed() % 2**31 if options.seed is None else options.seed
        words = self.backend.vocabulary.narrowed(options.vocabulary, options.banned)
        if options.vocabulary is None:  # words of several tokens that the originals have may be used, as a whole
            texts = (options.initial_prompt, *(teacher.text for teacher in teachers))
            words = words.with_words(text for text in texts if text is not None)
        matches = self._matches(teachers, options, seed)
        template, num_tokens = matches.followed.template, self._num_tokens(teachers[0], options)
        if self.method.startswith("nearest"):
            num_tokens = max(map(len, teachers))
        check_length(num_tokens, matches.followed.free_tokens(), template, self.backend.name)
        share = options.token_cost
        if share is None:
            share = TOKEN_COST if all(teacher.text is None for teacher in teachers) else 0.0
        cost = share * self._spread(matches, len(teachers)) if share and self.search is not None else 0.0
        options = dataclasses.replace(options, token_cost=cost)
        with tqdm(disable=None if options.progress else True, desc=self.method, unit="step", leave=False) as bar:
            shown = dataclasses.replace(options, callback=on_bar(options.callback, bar))
            chosen, shown = self._selected(teachers, words, matches, shown, num_tokens, seed)
            given = [
                self._given(teacher, own, words, template, options, num_tokens)
                for teacher, own in zip(teachers, chosen, strict=True)
            ]
            starts = [self._starts(own, words, options, num_tokens, seed + task) for task, own in enumerate(given)]
            search = search_method("pez") if self.search is None else self.search
            if matches.kind == "noise" and isinstance(search, BuildRefine):
                search = search.otherwise
            if matches.kind == "noise" and isinstance(search, PEZRefine):
                results = self._polished(search, given, starts, teachers, words, matches.followed, shown, seed)
            else:
                results = self._searched(search, starts, words, matches.followed, shown, seed)
        prompts = []
        for task, (teacher, result) in enumerate(zip(teachers, results, strict=True)):
            earlier = chosen[task]
            prompts.append(self._prompt(task, teacher, result, earlier, matches, options, num_tokens))
        return prompts

    def _spread(self, matches: _Matches, tasks: int) -> float:
        """The standard deviation of the score of random prompts, the mean over the tasks: the model's own unit."""
        texts = self._random_texts(matches, min(4, matches.followed.free_tokens()))
        each = torch.tensor([matches.followed.distances(texts, task) for task in range(tasks)], dtype=torch.float64)
        return float(each.std(dim=1).mean())

    def _random_texts(self, matches: _Matches, num_tokens: int) -> list[str]:
        """Random prompts, the same whatever the seed and the method, so that figures can be compared."""
        vocabulary = self.backend.vocabulary
        count = RANDOM_PROMPTS_OF_NOISE if matches.kind == "noise" else RANDOM_PROMPTS
        drawn = vocabulary.sample((count, num_tokens), torch.Generator().manual_seed(0)).tolist()
        return [vocabulary.decode(ids) for ids in drawn]

    def _selected(
        self,
        teachers: Sequence[Teacher],
        words: Vocabulary,
        matches: _Matches,
        options: _Options,
        num_tokens: int,
        seed: int,
    ) -> tuple[list[SearchResult | None], _Options]:
        """The best words of each long prompt, and the options with what is left of time and evaluations."""
        teacher = teachers[0]
        if teacher.text is None or self.method.startswith("nearest"):
            if self.method == "selection":
                raise ValueError("method 'selection' takes words from a text, and a soft prompt has none")
            return [None] * len(teachers), options
        # Words of several tokens too, of which a search itself has no use; a keyword bank means its own tokens alone.
        allowed = None if options.vocabulary is None else set(words.allowed_ids.tolist())
        source = tuple(ids for ids in words_of(teacher.text, words) if allowed is None or allowed.issuperset(ids))
        first = [ids for ids in source if len(ids) <= num_tokens][:1]
        if not first:
            if self.method == "selection":
                raise VocabularyError("no word of the prompt may be used, or each is longer than num_tokens")
            return [None] * len(teachers), options
        share = 1 if self.method == "selection" else 3
        (result,) = run_search(
            Selection(source, num_tokens), matches.followed, matches.followed, words, pack(_padded(first, num_tokens)),
            template=matches.followed.template, deadline=_share(options.deadline, share), seed=seed,
            max_evaluations=None if options.max_evaluations is None else options.max_evaluations // share,
            score_per_token=options.token_cost or 0.0, top_k=options.top_k,
            callback=options.callback,
        )  # fmt: skip
        left = None if options.max_evaluations is None else max(0, options.max_evaluations - result.evaluations)
        return [result], dataclasses.replace(_after(result, options), max_evaluations=left)

    def _given(
        self,
        teacher: Teacher,
        selected: SearchResult | None,
        words: Vocabulary,
        template: PromptTemplate,
        options: _Options,
        num_tokens: int,
    ) -> list[tuple[int, ...]]:
        """Prompts that the original of one task gives to start from."""
        given: list[tuple[int, ...]] = []
        if options.initial_prompt is not None:
            given.append(_encoded(options.initial_prompt, words, num_tokens))
        if teacher.text is None:
            for metric in {"nearest": ("cosine",), "nearest-l2": ("l2",)}.get(self.method, ("cosine", "l2")):
                try:
                    nearest = decode_nearest(teacher.embeddings, words, metric, template)  # type: ignore[arg-type]
                except VocabularyError:
                    if self.search is None:
                        raise
                    continue
                # A baseline is measured as it is, however many tokens its text is read as.
                given.append(nearest.token_ids if self.search is None else nearest.token_ids[:num_tokens])
        else:
            if selected is not None:
                given += [candidate.token_ids for candidate in selected.candidates[:2]]
            allowed = None if options.vocabulary is None else set(words.allowed_ids.tolist())
            given.append(tuple(i for i in teacher.ids if allowed is None or i in allowed)[:num_tokens])
        return list(dict.fromkeys(row for row in given if row))

    def _starts(
        self, given: Sequence[tuple[int, ...]], words: Vocabulary, options: _Options, num_tokens: int, seed: int
    ) -> list[tuple[int, ...]]:
        """Where the search of one task starts: what the original gives, then random tokens."""
        count = max(0, options.restarts - len(given)) if self.search is not None else 0
        if not given and not count:
            raise SearchError("there is nothing to start from; use another method than a baseline")
        drawn = random_starts(words, count, num_tokens, seed).tolist() if count else []
        return _padded([*given, *map(tuple, drawn)], num_tokens)

    def _polished(
        self,
        search: PEZRefine,
        given: Sequence[Sequence[tuple[int, ...]]],
        starts: Sequence[Sequence[tuple[int, ...]]],
        teachers: Sequence[Teacher],
        words: Vocabulary,
        followed: Match,
        options: _Options,
        seed: int,
    ) -> list[SearchResult]:
        """Prompts that have the features of the originals, polished by what the denoiser predicts under them."""
        alike = _mean([
            match_features(self.backend, self._windows(teachers, template), template) for template in options.templates
        ])  # fmt: skip
        limits = dataclasses.replace(
            options, max_evaluations=EXPLORATION * len(teachers), deadline=_share(options.deadline, 3), top_k=EXPLORED
        )
        explored = self._searched(search, starts, words, alike, limits, seed)
        first = explored[0]
        num_tokens = len(starts[0][0])
        polish = dataclasses.replace(
            search.refine, candidates_per_slot=min(POLISH_CANDIDATES, search.refine.candidates_per_slot)
        )
        # What the original gave has other features, and may yet do more of what is followed: one start is of each kind.
        kinds = [
            [[one.token_ids for one in result.candidates], list(own)]
            for result, own in zip(explored, given, strict=True)
        ]
        found = [
            _padded(list(dict.fromkeys(_best(rows, followed, task, words) for rows in both if rows)), num_tokens)
            for task, both in enumerate(kinds)
        ]
        looked = sum(len(rows) for both in kinds for rows in both)
        return [
            dataclasses.replace(
                result, steps=result.steps + first.steps, seconds=result.seconds + first.seconds,
                evaluations=result.evaluations + first.evaluations + looked,
                stop_reason=first.stop_reason if first.stop_reason in ENDED else result.stop_reason,
            )
            for result in self._searched(polish, found, words, followed, _after(first, options), seed)
        ]  # fmt: skip

    def _searched(
        self,
        search: Search,
        starts: Sequence[Sequence[tuple[int, ...]]],
        words: Vocabulary,
        followed: Match,
        options: _Options,
        seed: int,
    ) -> list[SearchResult]:
        groups = torch.tensor([task for task, rows in enumerate(starts) for _ in rows])
        limits = (options.max_steps, options.max_evaluations, options.deadline, options.patience)
        baseline = self.search is None
        max_steps = DEFAULT_MAX_STEPS if all(limit is None for limit in limits) else options.max_steps
        return run_search(
            search,
            followed,
            followed,
            words,
            pack([row for rows in starts for row in rows]),
            groups=groups,
            template=followed.template,
            max_steps=0 if baseline else max_steps,
            max_evaluations=options.max_evaluations,
            deadline=options.deadline,
            patience=options.patience,
            score_per_token=options.token_cost or 0.0,
            top_k=options.top_k,
            seed=seed,
            callback=options.callback,
        )

    # --- results --------------------------------------------------------------------------

    def _prompt(
        self,
        task: int,
        teacher: Teacher,
        result: SearchResult,
        selected: SearchResult | None,
        matches: _Matches,
        options: _Options,
        num_tokens: int,
    ) -> DistilledPrompt:
        """The result as people get it, scored on its text by the model's own tokenizer."""
        vocabulary, others = self.backend.vocabulary, options.templates[1:]
        found = list(result.candidates)
        if selected is not None and self.method == "selection":
            found = list(selected.candidates)
        found = [one for one in found if all(vocabulary.survives_round_trip(one.token_ids, t) for t in others)]
        if not found:
            raise SearchError(
                f"none of the {len(result.candidates)} best prompts survives the round trip in every template of "
                f"{[one.text for one in options.templates]}; put spaces around their slots, or give one template"
            )
        scores = [1 - distance for distance in matches.followed.distances([one.text for one in found], task)]
        ended = selected is not None and (selected.stop_reason in ENDED or self.method == "selection")
        best, stop_reason = found[0], (selected if ended and selected is not None else result).stop_reason
        attributions: tuple[float, ...] = ()
        provenance: dict[str, Any] = {
            "original": teacher.name,
            "original_tokens": len(teacher),
            "match": matches.kind,
            "templates": [one.text for one in options.templates],
            "restarts": options.restarts,
            "hardprompts": importlib.metadata.version("hardprompts"),
            "torch": torch.__version__,
            "steps": result.steps + (0 if selected is None else selected.steps),
            "seconds": round(result.seconds + (0 if selected is None else selected.seconds), 3),
        }
        try:
            provenance["faithfulness"] = self._faithfulness(best.text, matches, task, num_tokens).to_dict()
            attributions = self._attributions(best, scores[0], matches, task)
            if teacher.text is not None and matches.kind != "outputs":
                lost = self._lost(teacher, best, matches.followed.template)
                provenance["lost"] = [dataclasses.asdict(phrase) for phrase in lost]
        except KeyboardInterrupt:  # an interrupt here must not lose the prompt that was found
            stop_reason = "interrupted"
        return DistilledPrompt(
            text=best.text,
            token_ids=best.token_ids,
            score=scores[0],
            template=matches.followed.template.text,
            model=self.backend.name,
            method=self.method,
            score_unit="cosine similarity" if matches.kind == "features" else matches.followed.unit,
            tokens=vocabulary.token_texts(best.token_ids),
            attributions=attributions,
            candidates=tuple(dataclasses.replace(c, score=s) for c, s in zip(found, scores, strict=True)),
            history=result.history if self.method != "selection" or selected is None else selected.history,
            seed=result.seed,
            stop_reason=stop_reason,
            evaluations=result.evaluations + (0 if selected is None else selected.evaluations),
            provenance=provenance,
        )

    def _faithfulness(self, text: str, matches: _Matches, task: int, num_tokens: int) -> Faithfulness:
        texts = [text, "", *self._random_texts(matches, num_tokens)]

        def share(parts: Sequence[Match], quantity: str) -> Share:
            each = torch.tensor([part.distances(texts, task) for part in parts], dtype=torch.float64).mean(dim=0)
            templates = tuple(one.text for part in parts for one in getattr(part, "templates", (part.template,)))
            return Share(quantity, templates, float(each[0]), float(each[1]), float(each[2:].mean()))

        own = matches.followed
        parts = own.parts if isinstance(own, MeanMatch) else (own,)
        held_out = share(matches.held_out, matches.described[1]) if matches.held_out else None
        return Faithfulness(share(parts, matches.described[0]), held_out)

    def _attributions(self, best: Candidate, score: float, matches: _Matches, task: int) -> tuple[float, ...]:
        """For each token, the score that is lost without it."""
        ids = best.token_ids
        texts = [self.backend.vocabulary.decode(ids[:i] + ids[i + 1 :]) for i in range(len(ids))]
        return tuple(score - (1 - distance) for distance in matches.followed.distances(texts, task))

    def _lost(self, teacher: Teacher, best: Candidate, template: PromptTemplate) -> list[LostPhrase]:
        """The phrases of a long prompt that the short one does not say, those that matter most first."""
        assert teacher.text is not None
        phrases = phrases_of(teacher.text)
        if len(phrases) < 2:
            return []
        texts = [teacher.text, *(without_phrase(teacher.text, index) for index in range(len(phrases)))]
        whole = [Teacher.of(text, self.backend.vocabulary, self.backend.name) for text in texts]
        features = torch.stack([
            match.mean_targets[0] for match in
            (match_features(self.backend, self._windows([one], template), template) for one in whole)
        ])  # fmt: skip
        with torch.no_grad():
            own = normalize(self.backend.text_encoder.encode_text([template.fill(best.text)]))[0].to(features)
        said = set(best.text.lower().split())
        lost = []
        for phrase, other in zip(phrases, features[1:], strict=True):
            way = features[0] - other
            kept = float((own - other) @ way / way.square().sum().clamp_min(1e-12))
            if kept < KEPT and not said.issuperset(phrase.lower().split()):
                lost.append(LostPhrase(phrase, float(1 - features[0] @ other), kept))
        return sorted(lost, key=lambda one: -one.cost)[:MAX_LOST]


def _mean(parts: Sequence[Match]) -> Match:
    if len(parts) == 1:
        return parts[0]
    alike = tuple(part for part in parts if isinstance(part, FeatureMatch))
    return MeanFeatureMatch(alike) if len(alike) == len(parts) else MeanMatch(tuple(parts))


def _padded(rows: Sequence[Sequence[int]], num_tokens: int) -> list[tuple[int, ...]]:
    """The rows at this length: the longest row of a search's start bounds what it returns."""
    return [(*row, *[NO_TOKEN] * (num_tokens - len(row))) for row in rows]


def _best(rows: Sequence[tuple[int, ...]], followed: Match, task: int, vocabulary: Vocabulary) -> tuple[int, ...]:
    """The best of some prompts of a task."""
    distances = followed.distances([vocabulary.decode(row) for row in rows], task)
    return rows[distances.index(min(distances))]


def _encoded(text: str, vocabulary: Vocabulary, num_tokens: int) -> tuple[int, ...]:
    ids = tuple(vocabulary.encode(text))
    if not 0 < len(ids) <= num_tokens:
        raise VocabularyError(f"initial_prompt {text!r} has {len(ids)} tokens; it needs 1 to num_tokens = {num_tokens}")
    return ids


def _after(first: SearchResult, options: _Options) -> _Options:
    """What is left of the time for the search that follows a first one, and no step if the user ended that."""
    deadline = None if options.deadline is None else max(0.0, options.deadline - first.seconds)
    return dataclasses.replace(
        options, deadline=deadline, max_steps=0 if first.stop_reason in ENDED else options.max_steps
    )


def _share(limit: float | None, share: int) -> float | None:
    return None if limit is None else limit / share


def _gray() -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), "gray")
