"""Image to Prompt: what images show, as text, found with a model that compares images with text."""

from typing import Any

from comfy_api.latest import io

from .bridge import Progress, show_text, to_images
from .defaults import INVERSION, MAX_STEPS, SEED, given, sdk_default
from .graph_inputs import MASK
from .methods import FOR_FEATURES, method_input
from .models import PromptModel, named_model, proposer_name
from .notices import deadline_input, notices_of, warnings_kept
from .schema import seed_control, shown
from .values import CATEGORY, PromptModelType, prompt_outputs, prompt_values, report, summary

EACH, ALL = "one prompt per image", "one prompt for all"

#: The SDK's styles, and what stands for none of them.
STYLES, AS_FOUND = ("tags", "caption", "keywords"), "as found"

#: As in all nodes of ComfyUI, whose seeds have 64 bits.
MAX_SEED = 2**64 - 1


def search_inputs(options: str, steps_tooltip: str, **own: int) -> list[io.Input]:
    """The inputs that every searching node has.

    Args:
        options: the SDK's class of options whose defaults they begin with; see `defaults`.
        steps_tooltip: what a step is, and costs.
        own: other defaults than the SDK's.
    """
    names = ("num_tokens", "max_steps", "restarts")
    default = {name: own[name] if name in own else sdk_default(options, name) for name in names}
    return [
        io.Int.Input(
            "num_tokens", default=default["num_tokens"], min=1, max=75, tooltip="The most tokens that the prompt may "
            "have. A common word is one token."
        ),
        io.Int.Input("max_steps", default=default["max_steps"], min=1, max=100_000, tooltip=steps_tooltip),
        io.Int.Input(
            "restarts", default=default["restarts"], min=1, max=1024, tooltip="How many starting points are tried. "
            "More find better prompts, but take more time and memory."
        ),
        io.Int.Input(
            "seed", default=SEED, min=0, max=MAX_SEED, control_after_generate=seed_control(),
            tooltip="The same seed gives the same result."
        ),
        io.String.Input(
            "template", default="{}", tooltip="The text that you will use the prompt in, with {} where the prompt "
            "goes: a tiger in the style of {}."
        ),
        io.String.Input(
            "banned", default="", multiline=True, tooltip="Words that must not appear, one per line or separated by "
            "commas; category:artist, category:brand and others ban whole lists, /between slashes/ is a regular "
            "expression. Swear words are left out too, unless you write: none."
        ),
    ]  # fmt: skip


def banned_words(text: str) -> list[str]:
    """The words of a `banned` input."""
    from hardprompts.wording import separated

    return separated(text)


def keep_loaded_input() -> io.Input:
    """Whether the model stays in memory after the node."""
    return io.Boolean.Input(
        "keep_loaded",
        default=True,
        optional=True,
        tooltip="On: the model stays in memory until ComfyUI needs the room. Off: it is unloaded when the node is "
        "done.",
    )


class ImageToPrompt(io.ComfyNode):
    """What images show, as text."""

    @classmethod
    @shown(
        found_as=["clip interrogator", "interrogate", "img2prompt", "caption", "describe", "pez"],
        advanced=[
            "restarts", "text_weight", "keep_loaded", "captioner", "deadline", "proposer", "fast", "style",
            "fluency_model", "editable", "min_evidence",
        ],
    )  # fmt: skip
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="HardPromptsImageToPrompt",
            display_name="Image to Prompt",
            category=CATEGORY,
            description="Finds the prompt that describes an image best, according to a CLIP-like model.",
            inputs=[
                PromptModelType.Input("prompt_model", tooltip="Connect Load Prompt Model."),
                io.Image.Input("image", optional=True, tooltip="One image or a batch. Transparent areas count as "
                    "white."),
                io.Combo.Input(
                    "mode", options=[EACH, ALL], default=EACH, tooltip="For a batch: one prompt for each image, or "
                    "one prompt for what all images have in common, such as a style."
                ),
                *search_inputs(
                    INVERSION, "The most steps that the search takes; it may finish earlier.", max_steps=MAX_STEPS
                ),
                method_input(
                    FOR_FEATURES, "How to search. build+refine adds the words that are still missing, and then swaps "
                    "words; pez+refine follows gradients, and then swaps words; pez is the published method; beam "
                    "writes the prompt from left to right; phrase-bank combines ready-made phrases."
                ),
                io.Mask.Input("mask", optional=True, tooltip=MASK),
                io.Image.Input("unlike", optional=True, tooltip="Images that the prompt should not match."),
                io.String.Input(
                    "target_text", default="", optional=True, tooltip="A text that the prompt should resemble as well."
                ),
                io.Float.Input(
                    "text_weight", default=sdk_default(INVERSION, "text_weight"), min=0.0, max=1.0, step=0.05,
                    optional=True,
                    tooltip="How much the target text counts: 0 is not at all, 1 is nothing but the text."
                ),
                io.ClipVisionOutput.Input(
                    "clip_vision_output", optional=True, tooltip="Instead of an image: the output of CLIP "
                    "Vision Encode, if it uses the image encoder of the prompt model."
                ),
                keep_loaded_input(),
                io.String.Input(
                    "captioner", default="", optional=True, tooltip="An image-to-text model, whose caption the search "
                    "begins with: transformers:Salesforce/blip-image-captioning-base, downloaded on first use, or the "
                    "name of a folder in models/prompt_models. Empty: none."
                ),
                deadline_input(),
                io.String.Input(
                    "proposer", default="", optional=True, tooltip="What writes whole texts that the search starts "
                    "from: auto for the decoder that comes with the model (emoji and photo have one), the name of a "
                    "folder in models/prompt_models with a decoder, or none. Empty: auto for the method build+refine, "
                    "and none for the others."
                ),
                io.Boolean.Input(
                    "fast", default=False, optional=True, tooltip="On: the best text of the proposer as it is, scored, "
                    "without any search. Off: the search continues from it."
                ),
                io.Combo.Input(
                    "style", options=[AS_FOUND, *STYLES], default=AS_FOUND, optional=True, tooltip="How the prompt "
                    "reads. tags: phrases with commas between them. caption: a whole text; needs a proposer. keywords: "
                    "single words. Tags and keywords have the most important first."
                ),
                io.String.Input(
                    "fluency_model", default="", optional=True, tooltip="A language model that tells how fluently the "
                    "prompt reads, and has no say in it: emoji:emoji-lm comes with hardprompts; or transformers:gpt2, "
                    "downloaded on first use, or the name of a folder in models/prompt_models. Empty: none."
                ),
                io.Boolean.Input(
                    "editable", default=False, optional=True, tooltip="On: words are preferred that depend on each "
                    "other less, so that one can be exchanged and little else changes; see Edit Prompt."
                ),
                io.Float.Input(
                    "min_evidence", default=0.0, min=0.0, max=0.99, step=0.01, optional=True, tooltip="How likely true "
                    "of the image each word must be, such as 0.8; others are dropped, and better ones looked for. "
                    "0: words are not checked."
                ),
            ],
            outputs=[
                *prompt_outputs(is_list=True),
                io.String.Output("report", "report", tooltip="Scores, other candidates and settings, as text."),
            ],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def execute(
        cls,
        prompt_model: PromptModel,
        mode: str,
        num_tokens: int,
        max_steps: int,
        restarts: int,
        seed: int,
        template: str,
        banned: str,
        method: str,
        image: Any = None,
        mask: Any = None,
        unlike: Any = None,
        target_text: str = "",
        text_weight: float | None = None,
        clip_vision_output: Any = None,
        keep_loaded: bool = True,
        captioner: str = "",
        deadline: float | None = None,
        proposer: str = "",
        fast: bool | None = None,
        style: str | None = None,
        fluency_model: str = "",
        editable: bool | None = None,
        min_evidence: float | None = None,
    ) -> io.NodeOutput:
        """The prompts."""
        from hardprompts import PromptInverter

        called, asked, judging = named_model(captioner), proposer_name(proposer), named_model(fluency_model)
        with warnings_kept() as warned:
            targets = _targets(image, mask, clip_vision_output)
            options: dict[str, Any] = {
                "num_tokens": num_tokens, "max_steps": max_steps, "restarts": restarts, "seed": seed,
                "template": template, "banned": banned_words(banned),
                "unlike": None if unlike is None else to_images(unlike),
                "callback": Progress(cls.hidden.unique_id), "progress": False,
                **given(deadline=deadline or None, fast=fast or None, style=None if style == AS_FOUND else style,
                        min_evidence=min_evidence or None, evidence=bool(min_evidence) or None),
            }  # fmt: skip
            if editable:
                options["editable"] = True
            if target_text.strip():  # else its weight would be refused
                options |= given(text=target_text.strip(), text_weight=text_weight)
            with prompt_model.opened_with_captioner(called, keep_loaded) as (backend, describing):
                inverter = PromptInverter(
                    backend, method=method, device=backend.device, captioner=describing, proposers=asked or None,
                    fluency_model=judging or None,
                )  # fmt: skip
                prompts = (
                    inverter.invert_each(targets, **options) if mode == EACH else [inverter.invert(targets, **options)]
                )
        notices = notices_of(prompts, warned)
        show_text(summary(prompts, notices), cls.hidden.unique_id)
        return io.NodeOutput(*prompt_values(prompts), report(prompts, notices))


def _targets(image: Any, mask: Any, clip_vision_output: Any) -> Any:
    if (image is None) == (clip_vision_output is None):
        raise ValueError("connect either image or clip_vision_output, not both: each of them stands for the image")
    if image is not None:
        return to_images(image, mask)
    return clip_vision_output["image_embeds"].float().clone()
