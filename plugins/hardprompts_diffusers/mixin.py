"""`pipe.invert_prompt(image)` and `pipe.distill_prompt(prompt)` for text-to-image pipelines."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from diffusers.utils import BaseOutput
from torch import Tensor
from typing_extensions import Unpack

from hardprompts.allowance import Allowance
from hardprompts.diffusion import OWN, DenoisingArguments, DenoisingInverter, DenoisingOptions
from hardprompts.distillation import PromptDistiller
from hardprompts.encoders import Backend
from hardprompts.errors import TemplateError
from hardprompts.inversion import InversionArguments, InversionOptions, PromptInverter
from hardprompts.methods import PH2PRefine
from hardprompts.prompts import HardPrompt, unique
from hardprompts.search import Search, SearchOptions, SearchProgress, about, drawn_seed, generator_of
from hardprompts.softprompts import SoftPrompt
from hardprompts_diffusers.components import added_tokens, preserved, prompt_argument, text_kinds
from hardprompts_diffusers.dual_encoders import dual_encoder
from hardprompts_diffusers.memory import plan_memory
from hardprompts_diffusers.predictors import noise_predictor

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline as _Base
else:
    _Base = object

#: What of an image a prompt can match.
MATCHES = ("clip", "diffusion", "clip+diffusion")

#: Prompts of the CLIP search that the denoiser judges, for "clip+diffusion", and the search that betters the best of
#: them, whose candidates race.
RERANKED, POLISH = 16, PH2PRefine().refine

#: Options of a search that pipelines have a way of their own for.
INSTEAD = {
    "seed": "generator=torch.Generator().manual_seed(...)",
    "callback": "callback_on_step_end",
    "progress": "pipe.set_progress_bar_config(disable=True)",
}

Pipeline = TypeVar("Pipeline")


@dataclass
class PromptInversionOutput(BaseOutput):  # type: ignore[misc]
    r"""
    Output class for prompt inversion.

    Args:
        prompts (`list[str]`):
            One prompt for each image (or each list of images), with the template filled in.
        scores (`list[float]`):
            Their scores, higher is better. With `match="clip"` the cosine similarity of prompt and image, else the
            share of the empty prompt's denoising error that the prompt removes.
        hard_prompts (`list[HardPrompt]`):
            The same with token ids, further candidates, attributions, history and provenance.
        separate_prompts (`list[dict[str, str]]`):
            For each, what every kind of text encoder reads: `{"clip": ..., "t5": ...}`. They differ where `texts` was
            given.
        arguments (`list[dict[str, str]]`):
            The same as arguments of the pipeline's call, `{"prompt": ..., "prompt_2": ...}`: `pipe(**arguments[0])`.
    """

    prompts: list[str]
    scores: list[float]
    hard_prompts: list[HardPrompt]
    separate_prompts: list[dict[str, str]] = field(default_factory=list)
    arguments: list[dict[str, str]] = field(default_factory=list)


class PromptInversionArguments(InversionArguments, DenoisingArguments, total=False):
    """The options that `invert_prompt` takes beside its named arguments, for one `match` or another."""


class PromptInversionMixin(_Base):  # type: ignore[misc]
    r"""
    Finds the prompt of an image, for any latent text-to-image pipeline.

    Mix it into a pipeline class, or add it to a pipeline in memory with [`enable_prompt_inversion`], which keeps the
    class's name, so that saving, reloading and `AutoPipeline` go on working.
    """

    def invert_prompt(
        self,
        image: Any,
        match: str = "clip",
        num_tokens: int = InversionOptions.num_tokens,
        template: str = InversionOptions.template,
        *,
        method: str | Search | None = None,
        clip_backend: "str | Backend | list[str | Backend] | None" = None,
        clip_starts: bool = True,
        height: int | None = None,
        width: int | None = None,
        tokenizer: str | None = None,
        texts: Mapping[str, str] | None = None,
        gradient_checkpointing: bool = False,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        **options: Unpack[PromptInversionArguments],
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds the prompt that describes an image to this pipeline.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, path, or a list of these):
                The image. Of a list or a batch, each image gets a prompt of its own; a list within the list is one
                prompt for all of its images: `[[a, b, c]]` finds what three pictures share. Arrays are
                `(height, width, channels)`, tensors `(channels, height, width)`, in [0, 1] or uint8.
            match (`str`, *optional*, defaults to `"clip"`):
                `"clip"` searches for the text that is most similar to the image, in the eyes of the CLIP model that the
                pipeline's text encoder comes from, which is loaded for it. `"diffusion"` searches for the text under
                which the pipeline itself denoises the image best; by default it starts from what that CLIP finds, where
                it is known. `"clip+diffusion"` searches with CLIP and all of its options, has the pipeline judge the
                best candidates, and refines the winner. Tokens that were added to the pipeline
                (textual inversions) are known to the pipeline alone: they may stand in the template of `"diffusion"`,
                and no prompt of CLIP's spells one.
            num_tokens (`int`, *optional*):
                The number of tokens of the prompt; methods that insert and delete return as many or fewer.
            template (`str`, *optional*, defaults to `"{}"`):
                Text with one `"{}"` that the prompt is for, such as `"a tiger in the style of {}"`.
            method (`str` or `Search`, *optional*):
                The search method: a name from `hardprompts.search_methods()`, or a method with its own hyperparameters.
                Defaults to that of [`hardprompts.PromptInverter`] with CLIP and that of
                [`hardprompts.DenoisingInverter`] with the denoiser. With `"clip+diffusion"` it is the denoiser's.
            clip_backend (`str`, `Backend` or a list, *optional*):
                The CLIP, as for `hardprompts.load_backend`. Defaults to the dual encoder(s) of the
                pipeline's text encoder(s): ViT-L/14 for Stable Diffusion 1.x, ViT-H/14 for 2.x, ViT-L/14 and
                ViT-bigG/14 together for SDXL.
            clip_starts (`bool`, *optional*, defaults to `True`):
                Whether `"diffusion"` starts from what a CLIP finds. `False` loads no CLIP.
            height, width (`int`, *optional*):
                The size in pixels that images are scaled and cropped to for the denoiser. Defaults to the pipeline's.
            tokenizer (`str`, *optional*):
                Whose tokens are searched, such as `"tokenizer_2"`, for pipelines with several kinds of text encoders.
            texts (`dict[str, str]`, *optional*):
                What text encoders of some kinds read instead of the prompt, of a pipeline with several kinds:
                `{"t5": "a long text"}` has the tokens of CLIP searched beside it, and `{"clip": "a few words"}` those
                of T5. Errors and scores are those of the pipeline with all of its texts.
            gradient_checkpointing (`bool`, *optional*, defaults to `False`):
                Whether to save memory in the denoiser at the price of another forward pass.
            pipeline_kwargs (`dict`, *optional*):
                Further arguments of the pipeline's call, such as `max_sequence_length`, for the denoiser.
            generator (`torch.Generator`, *optional*):
                Makes the result reproducible.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`PromptInversionOutput`] or a tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each step as `callback_on_step_end(pipe, step, timestep, callback_kwargs)`, where
                `timestep` is `None` and `callback_kwargs` has the best `prompts` and `scores` so far.
                `pipe._interrupt = True` ends the search, which then returns the best so far, and so does a keyboard
                interrupt.
            options:
                Those of [`hardprompts.inversion.InversionOptions`] with CLIP, such as `max_steps`, `deadline`,
                `banned`, `unlike`, `text` or `vram`, and of [`hardprompts.diffusion.DenoisingOptions`] with the
                denoiser, such as `window`, `num_noises` or `batch_size`. `"clip+diffusion"` takes both; what both have
                counts for both, and a deadline and `max_evaluations` are shared. With the denoiser, `vram` (`int` or
                `str`: bytes, or `"8GB"`) chooses `batch_size` and `gradient_checkpointing` by
                [`hardprompts_diffusers.plan_memory`], and raises an error in advance if nothing fits.

        Examples:

            >>> pipe = enable_prompt_inversion(pipe)
            >>> pipe(pipe.invert_prompt(image).prompts[0]).images[0]

        Returns:
            [`PromptInversionOutput`] or `tuple`: prompts, scores and `HardPrompt`s, one for each image. The pipeline is
            left exactly as it was.
        """
        if match not in MATCHES:
            raise ValueError(f"`match` has to be one of {', '.join(MATCHES)}, but is {match!r}")
        vram = options.pop("vram", None)
        similar, judged = _split(match, {"num_tokens": num_tokens, "template": template, **options})
        if match == "clip":
            _refuse(
                match, height=height, width=width, tokenizer=tokenizer, texts=texts, pipeline_kwargs=pipeline_kwargs,
                gradient_checkpointing=gradient_checkpointing or None,
            )  # fmt: skip
        elif vram is not None and (gradient_checkpointing or "batch_size" in options):
            raise ValueError("`vram` chooses `batch_size` and `gradient_checkpointing`; leave it, or these, out")
        if match != "diffusion":
            _refuse(match, clip_starts=None if clip_starts else False)
        elif not clip_starts and clip_backend is not None:
            raise ValueError("`clip_backend` is of no use with clip_starts=False; leave one of them out")
        if match == "clip+diffusion":
            _refuse(match, initial_prompts=judged.get("initial_prompts"))
        steps = InversionOptions(**similar).steps if match == "clip" else DenoisingOptions(**judged).steps
        if match != "diffusion":
            similar = _without_own_tokens(self, similar)
        tasks, seed = _tasks(image), _seed(generator)
        chosen: dict[str, Any] = {} if method is None else {"method": method}
        with torch.inference_mode(False), self._searching(steps, callback_on_step_end) as on_step:
            run = {"seed": seed, "callback": on_step, "progress": False}
            similar, judged = {**similar, **run, "vram": vram}, {**judged, **run}
            if match == "clip":
                inverter = PromptInverter(dual_encoder(self, clip_backend), **chosen)
                return _output(self, [inverter.invert(task, **similar) for task in tasks], return_dict)
            kind: dict[str, Any] = {
                "height": height, "width": width, "tokenizer": tokenizer, "options": pipeline_kwargs, "texts": texts
            }  # fmt: skip
            if vram is not None:
                plan = plan_memory(self, vram, **kind)
                gradient_checkpointing = plan.gradient_checkpointing
                judged["batch_size"] = plan.batch_size
            with preserved(self, gradient_checkpointing=gradient_checkpointing):
                predictor = noise_predictor(self, **kind)
                if match == "diffusion":
                    clip = OWN if clip_backend is None else dual_encoder(self, clip_backend)
                    inverting = DenoisingInverter(predictor, clip=clip if clip_starts else None, **chosen)
                    found = inverting.invert_each(tasks, **judged)
                    return _output(self, found, return_dict, texts)
                first = PromptInverter(dual_encoder(self, clip_backend))
                second = DenoisingInverter(predictor, method or POLISH)
                both = [_both(first, second, task, similar, judged) for task in tasks]
                return _output(self, both, return_dict, texts)

    def distill_prompt(
        self,
        prompt: "str | SoftPrompt | os.PathLike[str] | Tensor",
        num_tokens: int = DenoisingOptions.num_tokens,
        template: str = DenoisingOptions.template,
        image: Any = None,
        num_images: int = 4,
        *,
        method: str | Search | None = None,
        height: int | None = None,
        width: int | None = None,
        tokenizer: str | None = None,
        texts: Mapping[str, str] | None = None,
        gradient_checkpointing: bool = False,
        pipeline_kwargs: Mapping[str, Any] | None = None,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None] | None = None,
        **options: Any,
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds a short prompt under which the pipeline does what it does under a long one, or under a textual inversion.

        The denoiser's predictions under both are compared on noised images. The score is the share of the long
        prompt's effect that the short one keeps: 0 for the empty prompt, 1 for one that is as good.

        Args:
            prompt (`str`, `SoftPrompt`, path or `torch.Tensor`):
                The prompt to shorten. What the text encoder cuts off counts for nothing, and every character is a word,
                as for the pipeline itself: [`hardprompts.search.read_markup`] takes `(neon:1.3)` and `<lora:...>` of
                other UIs away. Or a soft prompt, the path of
                its file, or its `(tokens, dim)` embeddings, which stand in the template's slot; the result is then a
                `DistilledPrompt`, whose `faithfulness` tells how much of its effect is kept. A `str` is always a
                prompt; [`~PromptInversionMixin.prompt_from_embedding`] takes the path of a file as a `str` too.
            num_tokens (`int`, *optional*, defaults to 8):
                The number of tokens of the short prompt.
            image (`PIL.Image.Image` or a list, *optional*):
                Pictures of the prompt, which are noised. By default the pipeline makes `num_images` of them; of a soft
                prompt, the denoiser makes a few rough ones.
            num_images (`int`, *optional*, defaults to 4):
                The number of pictures to make, with the pipeline's default number of inference steps and guidance.

        All others are those of [`~PromptInversionMixin.invert_prompt`]. With `texts`, what is imitated is the pipeline
        in which all text encoders read `prompt`: `texts={"t5": prompt}` finds short words for CLIP beside the long text
        for T5. Beside a soft prompt, the texts stand in both. `method` defaults to that of
        [`hardprompts.DenoisingInverter`] for a text, and to that of [`hardprompts.PromptDistiller`] for a soft prompt.
        `options` are those of [`hardprompts.diffusion.DenoisingOptions`] for a text, and those of
        [`hardprompts.PromptDistiller.distill`] for a soft prompt, such as `match="hidden_states"`; by default `"noise"`
        is matched.

        Returns:
            [`PromptInversionOutput`] or `tuple`: lists with the one short prompt. The pipeline is left as it was.
        """
        if not isinstance(prompt, str | SoftPrompt | os.PathLike | Tensor):
            raise ValueError(
                f"`prompt` has to be a `str`, a `SoftPrompt`, a path or a tensor, but is a {type(prompt).__name__}"
            )
        _in_the_pipelines_way(options)
        chosen: dict[str, Any] = {} if method is None else {"method": method}
        given = {"num_tokens": num_tokens, **options, "seed": _seed(generator), "progress": False}
        if isinstance(prompt, str):
            steps = DenoisingOptions.of("distill_prompt of a text", template=template, **given).steps
            if image is None:
                image = self._pictures(prompt, num_images, given["seed"], height, width, pipeline_kwargs)
        else:
            steps = SearchOptions(max_steps=options.get("max_steps")).steps
        with (
            torch.inference_mode(False),
            self._searching(steps, callback_on_step_end) as on_step,
            preserved(self, gradient_checkpointing=gradient_checkpointing),
        ):
            predictor = noise_predictor(
                self, height=height, width=width, tokenizer=tokenizer, options=pipeline_kwargs, texts=texts
            )
            given["callback"] = on_step
            found: HardPrompt
            if isinstance(prompt, str):
                found = DenoisingInverter(predictor, **chosen).imitate(prompt, image, template=template, **given)
            else:
                found = PromptDistiller(predictor, **chosen).distill(
                    prompt, templates=template, images=image, **{"match": "noise", **given}
                )
        return _output(self, [found], return_dict, texts)

    def _pictures(
        self,
        prompt: str,
        count: int,
        seed: int,
        height: int | None,
        width: int | None,
        pipeline_kwargs: Mapping[str, Any] | None,
    ) -> Any:
        """What the pipeline makes of a prompt."""
        size = {key: value for key, value in (("height", height), ("width", width)) if value is not None}
        # Seeded by a generator of its own: how many numbers a pipeline draws is its own affair.
        draws = generator_of(seed)
        given = dict(pipeline_kwargs or {})
        return self(prompt=prompt, num_images_per_prompt=count, generator=draws, **size, **given).images

    def prompt_from_embedding(
        self, path: "str | os.PathLike[str]", name: str = "", rename: Mapping[str, str] | None = None, **kwargs: Any
    ) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
        r"""
        Finds the prompt that says to the pipeline what a textual inversion does.

        Args:
            path (`str` or `os.PathLike`):
                The file, in any format that [`hardprompts.SoftPrompt.from_file`] reads; nothing in it is ever run.
            name (`str`, *optional*):
                Which one, if the file has several.
            rename (`Mapping[str, str]`, *optional*):
                Keys of the file that are wrong, and what they should be, as `{"clip_g": "clip_l"}`.
            kwargs:
                Those of [`~PromptInversionMixin.distill_prompt`].

        Returns:
            [`PromptInversionOutput`] or `tuple`: lists with the one prompt. The pipeline is left as it was.
        """
        return self.distill_prompt(SoftPrompt.from_file(path, name=name, rename=rename or {}), **kwargs)

    @contextlib.contextmanager
    def _searching(
        self, steps: int | None, callback: Callable[[Any, int, Any, dict[str, Any]], Any] | None
    ) -> Iterator[Callable[[SearchProgress], bool]]:
        """What `run_search` is to call after each step: the progress bar, the callback, and `_interrupt`."""
        before = vars(self).get("_interrupt")
        self._interrupt = False
        with self.progress_bar(total=steps or 0) as bar:

            def on_step(progress: SearchProgress) -> bool:
                best = [candidate for candidate in progress.best if candidate is not None]
                if best:
                    bar.set_postfix_str(f"{best[0].score:.3f} {best[0].text}", refresh=False)
                if progress.expected_seconds is not None:
                    bar.set_description(about(progress.expected_seconds), refresh=False)
                if progress.step == 0:  # something is measured before the first step
                    return bool(self._interrupt)
                bar.total = progress.max_steps  # None where the method itself decides when it is done
                bar.update()
                if callback is not None:
                    told = {"prompts": [one.text for one in best], "scores": [one.score for one in best]}
                    callback(self, progress.step - 1, None, told)
                return bool(self._interrupt)

            try:
                yield on_step
            finally:
                del self._interrupt
                if before is not None:
                    self._interrupt = before


@functools.cache
def _with_inversion(kind: type[Any]) -> type[Any]:
    """The pipeline class with the mixin in front, under the same name in the same module."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (PromptInversionMixin, kind), names)


def enable_prompt_inversion(pipe: Pipeline) -> Pipeline:
    r"""
    Gives a pipeline in memory `invert_prompt` and `distill_prompt`; see [`PromptInversionMixin`].

    Its class is replaced by a subclass of the same name, so that `save_pretrained`, `from_pretrained` with plain
    diffusers, `AutoPipeline` and `isinstance` go on working. Calling it twice changes nothing.

    Args:
        pipe (`DiffusionPipeline`): A text-to-image pipeline.

    Returns:
        The same pipeline.
    """
    if not isinstance(pipe, PromptInversionMixin):
        kind: Any = type(pipe)
        pipe.__class__ = _with_inversion(kind)
    return pipe


def _tasks(image: Any) -> list[Any]:
    """The images of each prompt: of a list or a batch, each entry has its own."""
    if isinstance(image, list | tuple):
        return [one for entry in image for one in ([entry] if isinstance(entry, list | tuple) else _tasks(entry))]
    return list(image) if isinstance(image, np.ndarray | Tensor) and image.ndim == 4 else [image]


def _seed(generator: torch.Generator | None) -> int:
    if generator is None:
        return drawn_seed(None)
    return int(torch.randint(2**31 - 1, (1,), generator=generator, device=generator.device))


def _in_the_pipelines_way(options: Mapping[str, Any]) -> None:
    for name, instead in INSTEAD.items():
        if name in options:
            raise ValueError(f"`{name}` is not an option of a pipeline; use {instead}")


def _refuse(match: str, **arguments: Any) -> None:
    """Raises ValueError for arguments that say nothing for this `match`."""
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise ValueError(f"`{'`, `'.join(given)}` is of no use with match={match!r}; leave it out")


def _split(match: str, options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the search with CLIP, and those of the search with the denoiser.

    Raises:
        TypeError, ValueError: an option that there is not with this `match`, or that is out of range.
    """
    _in_the_pipelines_way(options)
    door = f"invert_prompt(match={match!r})"
    if match == "clip":
        InversionOptions.of(door, **options)
    elif match == "diffusion":
        DenoisingOptions.of(door, **options)
    of_clip, of_denoiser = ({field.name for field in fields(kind)} for kind in (InversionOptions, DenoisingOptions))
    similar = {name: value for name, value in options.items() if name in of_clip}
    judged = {name: value for name, value in options.items() if name in of_denoiser or name not in of_clip}
    if match == "clip+diffusion":
        InversionOptions.of(door, **similar)
        DenoisingOptions.of(door, **judged)
    return similar, judged


def _without_own_tokens(pipe: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the search with CLIP, in whose prompts nothing is spelled that the pipeline reads as added tokens.

    Raises:
        TemplateError: one of them is in a text that CLIP is given to read.
    """
    own = added_tokens(pipe)
    for name, value in options.items():
        texts = [value] if isinstance(value, str) else value if name == "required" else ()
        for text in texts:
            found = next((token for token in own if token in text), None)
            if found is not None and name != "banned":
                raise TemplateError(
                    f"`{name}` has {found!r}, a token that was added to this pipeline and that CLIP reads as plain "
                    "letters; use match='diffusion', which knows it, or leave it out"
                )
    banned = options.get("banned", ())
    return {**options, "banned": [*([banned] if isinstance(banned, str) else banned), *own]} if own else dict(options)


def _output(
    pipe: Any, found: list[HardPrompt], return_dict: bool, texts: Mapping[str, str] | None = None
) -> "PromptInversionOutput | tuple[list[str], list[float], list[HardPrompt]]":
    prompts, scores = [one.filled for one in found], [one.score for one in found]
    if not return_dict:
        return prompts, scores, found
    kinds, own = text_kinds(pipe), texts or {}
    separate = [{kind: own.get(kind, prompt) for kind in kinds.values()} for prompt in prompts]
    arguments = [{prompt_argument(pipe, place): one[kind] for place, kind in kinds.items()} for one in separate]
    return PromptInversionOutput(prompts, scores, found, separate, arguments)


def _both(
    first: PromptInverter,
    second: DenoisingInverter,
    task: Any,
    similar: Mapping[str, Any],
    judged: Mapping[str, Any],
) -> HardPrompt:
    """The best of what CLIP finds by the denoiser's judgment, refined by it."""
    limits = SearchOptions(deadline=similar.get("deadline"), max_evaluations=similar.get("max_evaluations"))
    allowance = limits.allowance()
    found = first.invert(task, **{**similar, **_limits(allowance.share(2)), "top_k": RERANKED})
    allowance.spend(found.evaluations)
    own = {name: value for name, value in judged.items() if name not in ("num_tokens", "initial_prompt", "restarts")}
    texts = [candidate.text for candidate in found.candidates]
    ranked = second.rescore(texts, task, **{**own, **_limits(allowance.share(2))})
    allowance.spend(len(ranked))
    allowance.leave_out("prompts judged by the denoiser", len(ranked), len(texts))
    start = ranked[0]
    num_tokens = max(judged["num_tokens"], len(start.token_ids))
    refined = second.invert(task, num_tokens, **{**own, **_limits(allowance), "initial_prompts": [start.text]})
    return replace(
        refined,
        candidates=unique((*refined.candidates, *ranked)),
        method=f"{first.method}, then {second.method}",
        evaluations=allowance.evaluations + refined.evaluations,
        left_out=(*found.left_out, *allowance.left_out, *refined.left_out),
        provenance={**refined.provenance, "clip_model": found.model, "clip_prompt": found.text},
    )


def _limits(allowance: Allowance) -> dict[str, Any]:
    """What is left of a call, as the options of a search."""
    return {"deadline": allowance.seconds_left, "max_evaluations": allowance.remaining}
