"""DenoisingInverter: images, or a text, become a prompt under which a diffusion model does the same."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.diffusion.expectation import expected_seconds
from hardprompts.diffusion.features import denoiser_of
from hardprompts.diffusion.noise_prediction import NoiseBank, NoisePrediction
from hardprompts.diffusion.options import DenoisingArguments, DenoisingOptions
from hardprompts.diffusion.reading import check_template, whole_conditioning
from hardprompts.diffusion.starts import (
    FOREIGN,
    OWN,
    SHARE,
    TOKEN_COST,
    begun,
    own_clip,
    similar_texts,
    token_cost,
)
from hardprompts.encoders import Backend, NoisePredictor, load_backend, own_texts
from hardprompts.errors import SearchError, warn_user
from hardprompts.images import ImageInput, image_weights, load_images
from hardprompts.inversion.proposals import usable_ids
from hardprompts.methods.ph2p import PH2P
from hardprompts.methods.ph2p_refine import PH2PRefine
from hardprompts.noise import Conditioning
from hardprompts.objectives import check_length
from hardprompts.prompts import SLOT, Candidate, HardPrompt, PromptTemplate, unique
from hardprompts.search.protocol import Search, SearchResult
from hardprompts.search.registry import method_name, method_settings, search_method
from hardprompts.search.results import hard_prompt_of
from hardprompts.search.seeds import Stream, drawn_seed
from hardprompts.vocabulary import Vocabulary

#: The method of denoisers: the published one explores, and what it met is refined.
DEFAULT_METHOD = "ph2p+refine"

#: Of what is left of a call, one part in so many may go into the bank of noised images.
DRAWING_SHARE = 3

#: Steps without a better prompt after which PH2P, which has no end of its own, is ended where no limit is given.
PATIENCE = 40


class DenoisingInverter:
    """Finds the prompt under which a diffusion model denoises an image best.

    Unlike a dual encoder's similarity, this asks the model that is to draw the picture; and it
    costs two passes through its denoiser for every noise. Memory is that of the larger of text
    encoders and denoiser with its gradients; see `NoisePrediction`.

    Args:
        model: a `NoisePredictor`, a backend that has one, or its name for `load_backend`.
        method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters;
            default: `DEFAULT_METHOD` of this module.
        clip: the dual encoder, open or by name, with which that method finds prompts to start from, since a pass
            through it costs a small part of one through a denoiser; those that it finds race by the denoising error.
            "own": the one that the model's text encoders come from, where it is known (`DualEncoderSource`); one that
            cannot be opened costs a warning. None: the method explores by the denoising error alone.

    Raises:
        BackendError: the backend makes no images, or no dual encoder sees them; see `load_backend`.
        UnknownName: no such backend or method.

    Source: PH2P, arXiv 2312.12416. That its search begins where a CLIP's ends is this project's.
    """

    def __init__(
        self,
        model: NoisePredictor | Backend | str,
        method: str | Search = DEFAULT_METHOD,
        clip: "str | Backend | None" = OWN,
    ) -> None:
        # The backend rather than its denoiser: a pickle opens it again.
        self._model = load_backend(model) if isinstance(model, str) else model
        denoiser_of(self._model)  # refuses what has none
        self.search = search_method(method)
        self.method, self.method_settings = method_name(method), method_settings(method)
        self._clip = load_backend(clip) if isinstance(clip, str) and clip != OWN else clip

    @property
    def predictor(self) -> NoisePredictor:
        """The denoiser with its text encoders."""
        return denoiser_of(self._model)

    def invert(
        self,
        images: "ImageInput | Sequence[ImageInput]",
        num_tokens: int = DenoisingOptions.num_tokens,
        template: str = DenoisingOptions.template,
        **options: Unpack[DenoisingArguments],
    ) -> HardPrompt:
        """One prompt for one image, or for what several images share.

        Args:
            images: see `PromptInverter.invert`, without features.
            num_tokens, template, options: see `DenoisingOptions`.

        Raises:
            ImageError, TemplateError, VocabularyError, SearchError: see `PromptInverter.invert`.
            BackendError: the model reads the template differently from its tokens.
            NonFiniteError: the model overflows in half precision.
            TypeError, ValueError: an option that there is not, or that is out of range.
        """
        chosen = _chosen("DenoisingInverter.invert", num_tokens=num_tokens, template=template, **options)
        return self._inverted([images], chosen)[0]

    def invert_each(
        self,
        tasks: "Sequence[ImageInput | Sequence[ImageInput]]",
        num_tokens: int = DenoisingOptions.num_tokens,
        template: str = DenoisingOptions.template,
        **options: Unpack[DenoisingArguments],
    ) -> list[HardPrompt]:
        """One prompt for each image, or for each list of images, searched in one batch; otherwise as `invert`."""
        chosen = _chosen("DenoisingInverter.invert_each", num_tokens=num_tokens, template=template, **options)
        return self._inverted(tasks, chosen)

    def imitate(
        self,
        text: str,
        images: "ImageInput | Sequence[ImageInput]",
        num_tokens: int = DenoisingOptions.num_tokens,
        template: str = DenoisingOptions.template,
        **options: Unpack[DenoisingArguments],
    ) -> HardPrompt:
        """The prompt under which the denoiser predicts what it predicts under `text`, on noised images.

        The score is the share of the text's effect that the prompt has: 0 for the empty prompt, 1 for
        one that makes the denoiser do the same.

        Args:
            text: what to imitate, read as the model itself reads it, by all of its text encoders: a long text is
                cut off where the model's text encoder cuts it off.
            images: pictures of what the text says, such as the model makes of it.
            num_tokens, template, options: see `DenoisingOptions`.

        Raises: as `invert`.
        """
        chosen = _chosen("DenoisingInverter.imitate", num_tokens=num_tokens, template=template, **options)
        allowance = chosen.allowance()
        bank = self._bank([images], chosen, allowance)
        objective = NoisePrediction(self.predictor, bank, batch_size=chosen.batch_size)
        teacher = whole_conditioning(self.predictor, text)
        allowance.spend(1)
        return self._search(objective.imitating(teacher), chosen, allowance, unit="share of the text's effect")[0]

    def rescore(
        self,
        texts: Sequence[str],
        images: "ImageInput | Sequence[ImageInput]",
        template: str = DenoisingOptions.template,
        **options: Unpack[DenoisingArguments],
    ) -> tuple[Candidate, ...]:
        """Prompts of any origin, best first by this model's score; those that its tokenizer changes are left out.

        So are the last ones that a deadline or a limit of evaluations leaves no room for; one is always scored.

        Args:
            template, options: see `DenoisingOptions`; the others of a search change nothing.

        Raises:
            SearchError: none is left.
        """
        chosen = _chosen("DenoisingInverter.rescore", template=template, **options)
        allowance = chosen.allowance()
        slot = PromptTemplate(template)
        bank = self._bank([images], chosen, allowance)
        objective = NoisePrediction(self.predictor, bank, slot, batch_size=chosen.batch_size)
        vocabulary, room = self.predictor.vocabulary, objective.free_tokens()
        found: list[Candidate] = []
        for text in dict.fromkeys(texts):
            ids = vocabulary.encode(text)
            if 0 < len(ids) <= room and vocabulary.survives_round_trip(ids, slot):
                if found and not allowance.affords(1):
                    break
                allowance.spend(1)
                row = torch.tensor([ids], device=vocabulary.table.device)
                score = float(objective.score(row, torch.zeros(1, dtype=torch.long, device=row.device)))
                found.append(Candidate(vocabulary.decode(ids), tuple(ids), score))
        if not found:
            raise SearchError(
                f"none of {len(texts)} prompts survives the round trip of {self.predictor.name}'s tokenizer"
            )
        return unique(found)

    def score(
        self,
        text: str,
        images: "ImageInput | Sequence[ImageInput]",
        **options: Unpack[DenoisingArguments],
    ) -> float:
        """The score of a text, by the model's own tokenizer; see `DenoisingOptions`, of which a search's do nothing."""
        objective = NoisePrediction(
            self.predictor, self._bank([images], _chosen("DenoisingInverter.score", **options), Allowance())
        )
        return _text_scores(objective, self.predictor.condition_text(text))[0]

    # --- the search -----------------------------------------------------------------------

    def _inverted(self, tasks: Sequence[Any], options: DenoisingOptions) -> list[HardPrompt]:
        allowance = options.allowance()
        found = self._similar(tasks, options, allowance)
        bank = self._bank(tasks, options, allowance)
        return self._search(NoisePrediction(self.predictor, bank), options, allowance, found=found)

    def _similar(
        self, tasks: Sequence[Any], options: DenoisingOptions, allowance: Allowance
    ) -> Sequence[Sequence[str]]:
        """For each task what the dual encoder finds similar; nothing where starts are given, or no encoder is known."""
        given = options.initial_prompts or options.initial_prompt or isinstance(options.vocabulary, Vocabulary)
        if not isinstance(self.search, PH2PRefine) or given:
            return ()
        # One that was opened here is given up before the denoiser needs the memory.
        clip = (
            self._clip if isinstance(self._clip, Backend) else own_clip(self.predictor) if self._clip == OWN else None
        )
        return () if clip is None else similar_texts(clip, tasks, options, allowance.share(SHARE))

    def _bank(self, tasks: Sequence[Any], options: DenoisingOptions, allowance: Allowance) -> NoiseBank:
        """The noised images, in a third of the time at most."""
        time = allowance.share(DRAWING_SHARE)
        loaded = [load_images(task) for task in tasks]
        weights = [image_weights(options.weights, len(images)).tolist() for images in loaded]
        bank = NoiseBank.draw(
            self.predictor,
            [list(zip(images, own, strict=True)) for images, own in zip(loaded, weights, strict=True)],
            unlike=[] if options.unlike is None else load_images(options.unlike),
            unlike_weight=options.unlike_weight,
            items=options.num_noises,
            window=options.window,
            crop=options.crop,
            seed=drawn_seed(options.seed),
            allowance=time,
        )
        allowance.left_out += time.left_out
        return bank

    def _search(
        self,
        judged: NoisePrediction,
        options: DenoisingOptions,
        allowance: Allowance,
        unit: str = NoisePrediction.unit,
        found: Sequence[Sequence[str]] = (),
    ) -> list[HardPrompt]:
        template, seed = PromptTemplate(options.template), drawn_seed(options.seed)
        score = dataclasses.replace(judged, template=template, batch_size=options.batch_size)
        objective = score
        if options.noises_per_step is not None and options.noises_per_step * score.bank.pairs < len(score.bank):
            draws = Stream.NOISES.generator(seed)
            objective = dataclasses.replace(score, sample_size=options.noises_per_step, generator=draws)
        check_length(options.num_tokens, score.free_tokens(), template, self.predictor.name)
        if template.text != SLOT:
            check_template(self.predictor, template)
        words = self.predictor.vocabulary.narrowed(options.vocabulary, options.banned)
        tasks = len(score.bank.weights)
        rows = usable_ids(found, words, template, options.num_tokens)
        if rows and not all(rows):
            warn_user(FOREIGN.format(clip=getattr(self._clip, "name", "the CLIP"), model=self.predictor.name))
        search, initial = begun(self.search, rows, words, options, seed, tasks)
        groups = torch.arange(tasks).repeat_interleave(len(initial) // tasks)
        allowance.spend(tasks)  # the empty prompt, which scores are relative to
        if isinstance(search, PH2PRefine) and options.token_cost is None:
            options = dataclasses.replace(options, token_cost=TOKEN_COST)
        cost = token_cost(score, words, options, seed, allowance)
        if isinstance(search, PH2P) and options.is_endless:
            options = dataclasses.replace(options, max_steps=options.steps, patience=PATIENCE)
        expected = expected_seconds(search, score, options, tasks, allowance)
        results = options.run(
            search,
            objective,
            score,
            words,
            initial,
            groups=groups,
            template=template,
            score_per_token=cost,
            description=self.method,
            allowance=allowance.keeping(tasks * options.num_tokens),
            expected_seconds=expected,
        )
        prompts = [
            _prompt(self, result, task, score, options, unit, allowance.share(tasks - task))
            for task, result in enumerate(results)
        ]
        return [dataclasses.replace(prompt, evaluations=allowance.evaluations) for prompt in prompts]


def _chosen(door: str, **options: Any) -> DenoisingOptions:
    return DenoisingOptions.of(door, **options).seeded()


def _text_scores(objective: NoisePrediction, conditioning: Conditioning) -> list[float]:
    groups = torch.zeros(len(conditioning), dtype=torch.long, device=objective.bank.noisy.device)
    scores: list[float] = objective.scores_of(conditioning, groups).tolist()
    return scores


def _prompt(
    inverter: DenoisingInverter,
    result: SearchResult,
    task: int,
    score: NoisePrediction,
    options: DenoisingOptions,
    unit: str,
    allowance: Allowance,
) -> HardPrompt:
    vocabulary = inverter.predictor.vocabulary
    allowance.insist(lambda: score.check_text(result.best.text))

    def scores_of(without: Sequence[tuple[int, ...]]) -> list[float]:
        rows = torch.tensor(list(without), dtype=torch.long, device=vocabulary.table.device)
        scores: list[float] = score.score(rows, torch.full((len(rows),), task, device=rows.device)).tolist()
        return scores

    return hard_prompt_of(
        result,
        result.candidates,
        vocabulary=vocabulary,
        template=score.template,
        model=inverter.predictor.name,
        method=inverter.method,
        method_settings=inverter.method_settings,
        allowance=allowance,
        score_unit=unit,
        scores_of=scores_of,
        rows_at_once=1,
        settings={
            "noise_window": [options.window.low, options.window.high],
            "num_noises": len(score.bank) // score.bank.pairs,
            "noises_per_step": options.noises_per_step,
            "crop": list(options.crop),
            "restarts": options.starts,
            **({"texts": own} if (own := own_texts(inverter.predictor)) else {}),
        },
    )
