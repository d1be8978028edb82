"""The options of all commands, each declared once.

An option of the SDK is a parameter of the SDK's name in a command, with one of these types and None, or False, as its
default: what is not given is left out of the call, so that the defaults of the SDK apply.
"""

import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    import torch

# --- the model --------------------------------------------------------------------------------

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="SCHEME:NAME",
        help="The model; see `hardprompts models` (default: photo, if it is installed).",
    ),
]
TextModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="SCHEME:NAME", help="The model; see `hardprompts models` (default: the embedded one)."
    ),
]
LanguageModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="SCHEME:NAME", help="A language model; see `hardprompts models`."),
]
ComparedModel = Annotated[
    str | None, typer.Option("--model", "-m", metavar="SCHEME:NAME", help="Compare with the tokens of this model.")
]
OtherModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="SCHEME:NAME", help="Another model than the prompt was found for."),
]
ImageModel = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="SCHEME:NAME", help="The text-to-image model, as in diffusers:NAME."),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KIND=TEXT", help="What text encoders of a kind read instead of the prompt, as in t5='a long text'."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or mps (default: the best available).")]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads (default: one for each processor, and no more than a container's quota)."),
]
Dtype = Annotated[
    Literal["float32", "float16", "bfloat16"] | None,
    typer.Option("--dtype", help="Precision of the model (default: float32)."),
]
Prior = Annotated[
    str | None,
    typer.Option(metavar="SCHEME:NAME", help="A causal language model; prompts that it finds likely are preferred."),
]

# --- the search -------------------------------------------------------------------------------

Tokens = Annotated[
    int | None, typer.Option("--tokens", "-n", help="Length of the prompt in the model's tokens (default: 8).")
]
MostTokens = Annotated[
    int | None, typer.Option("--tokens", "-n", help="Maximum length of the prompt in tokens (default: about 8).")
]
Ratio = Annotated[float | None, typer.Option(help="Maximum length as a share of the original's tokens.")]
Template = Annotated[
    str | None, typer.Option(help="The text that the prompt is for, with one {} where it goes (default: {}).")
]
Templates = Annotated[
    list[str] | None,
    typer.Option("--inside", help="A text around both, with one {}; repeat the option to average over several."),
]
Method = Annotated[
    str | None, typer.Option(help="The search method; see `hardprompts methods`, which marks the default.")
]
DistillMethod = Annotated[
    str | None,
    typer.Option(help="The search method (see `hardprompts methods`), nearest, nearest-l2 or selection."),
]
Match = Annotated[
    Literal["auto", "features", "hidden_states", "noise", "outputs"] | None,
    typer.Option(help="What must be the same (default: chosen by the model and the original)."),
]
MarkupOption = Annotated[
    Literal["auto", "a1111", "comfyui", "none"] | None,
    typer.Option("--markup", help="Whose (word:1.3), <lora:...> and embedding: a prompt has (default: what it shows)."),
]
Steps = Annotated[int | None, typer.Option("--steps", help="Maximum number of steps of the method.")]
Restarts = Annotated[int | None, typer.Option(help="Starts, searched in one batch.")]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile", help="Compile the gradients of a method that takes many, such as pez; takes a minute once."
    ),
]
Vram = Annotated[
    str | None,
    typer.Option(metavar="SIZE", help="Memory that the device has for this, as 8GB: batches are made to fit into it."),
]
Deadline = Annotated[float | None, typer.Option(help="Maximum number of seconds, for all that is done.")]
Seed = Annotated[int | None, typer.Option(help="Makes the result repeatable (default: drawn, and shown).")]
FixedSeed = Annotated[int | None, typer.Option("--seed", help="A different seed gives different prompts (default: 0).")]
Banned = Annotated[
    list[str] | None,
    typer.Option(
        help="A string that must not occur, a /regular expression/, or a list such as category:artist, category:brand "
        "or category:FILE.txt; repeat the option for more. none: allows the listed swear words too."
    ),
]
Unlike = Annotated[
    list[Path] | None,
    typer.Option(metavar="IMAGE", help="An image that the prompt should not fit; repeat the option for more."),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Number of images searched together: more use a GPU better (default: 16).")
]
VocabularyFile = Annotated[
    Path | None,
    typer.Option("--vocabulary", metavar="FILE", help="Use only the words of this file, one phrase a line."),
]
Words = Annotated[
    bool | None,
    typer.Option("--words/--no-words", help="Use only real words, or any tokens (default: words, if it has enough)."),
]
Required = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="WORD", help="The prompt begins with this word; repeat the option for more."),
]
Caption = Annotated[str | None, typer.Option(help="A description to start from; phrase banks continue it.")]
CaptionerName = Annotated[
    str | None,
    typer.Option("--captioner", metavar="SCHEME:NAME", help="An image-to-text model, whose caption is where to start."),
]
ProposerNames = Annotated[
    list[str] | None,
    typer.Option(
        "--proposer",
        metavar="SCHEME:NAME",
        help="What writes whole texts to start from: decoder:FOLDER, lm:MODEL, mlm:MODEL, auto for what comes with the "
        "model (the default method has it unasked), or none; repeat for more.",
    ),
]
Fast = Annotated[
    bool | None,
    typer.Option("--fast", help="Take the best text of --proposer as it is (default: auto), and search nothing."),
]
Editable = Annotated[
    bool | None,
    typer.Option("--editable", help="Prefer words that say by themselves what they say together; see `edit`."),
]
PromptStyle = Annotated[
    Literal["tags", "caption", "keywords"] | None,
    typer.Option(
        "--style",
        help="How the prompt reads: tags with commas, keywords, or a caption, which needs --proposer or --prior.",
    ),
]
FluencyModel = Annotated[
    str | None,
    typer.Option(
        metavar="SCHEME:NAME", help="A causal language model that has no say, and tells how fluent the prompt is."
    ),
]
Evidence = Annotated[
    bool | None,
    typer.Option("--evidence", help="Also say of each word what is lost without it, how likely it is true, and where."),
]
MinEvidence = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Drop words that are less likely true of the image than this, as 0.8, and look for others instead.",
    ),
]
Interactions = Annotated[
    bool,
    typer.Option("--interactions", help="Also say how much the words of the prompt depend on one another."),
]
Calibrations = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Calibrations of evidence that you fitted for this model, as `save_calibrations` writes them (default: "
        "what comes with the model).",
    ),
]
Bank = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Phrases to choose from, one a line, or a folder of such files (phrase-bank)."),
]
PriorWeight = Annotated[float | None, typer.Option(help="Weight of --prior relative to the similarity (default: 0.1).")]

# --- pictures of a generator ------------------------------------------------------------------

GeneratorName = Annotated[
    str,
    typer.Option(
        "--generator",
        "-g",
        metavar="SCHEME:NAME",
        help="What draws: emoji:emoji-sd, diffusers:FOLDER, or python:MODULE:FUNCTION for your own function of prompts "
        "and seeds, which may ask a service.",
    ),
]
GeneratorSteps = Annotated[int | None, typer.Option(help="Steps of the generator's denoiser (default: its own).")]
GuidanceScale = Annotated[float | None, typer.Option(help="Guidance scale of the generator (default: its own).")]
Budget = Annotated[int | None, typer.Option(help="Pictures that the generator is asked for at most (default: 100).")]
Judge = Annotated[
    str | None,
    typer.Option(
        "--judge",
        metavar="SCHEME:NAME",
        help="The model that compares pictures with the image (default: --model). With --judge alone no model is "
        "searched through to begin with.",
    ),
]
StartTexts = Annotated[
    list[str] | None, typer.Option("--start", metavar="TEXT", help="A text to begin with; repeat the option for more.")
]
Rewriter = Annotated[
    str | None,
    typer.Option("--language-model", metavar="SCHEME:NAME", help="A masked or causal model that rewrites prompts."),
]
ReportAt = Annotated[
    list[int] | None,
    typer.Option(
        metavar="PICTURES",
        help="Also report the best prompt after so many pictures, for a few more of the budget; repeat for more.",
    ),
]
RunFolder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keep what came of each picture here, and go on from it when run again."),
]
Patience = Annotated[int | None, typer.Option(help="End after so many pictures without a better prompt.")]

EmbeddingName = Annotated[str, typer.Option("--name", help="Which one, if the file has several soft prompts.")]
Rename = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=NAME", help="A key of the file that is wrong, as clip_g=clip_l; repeat the option for more."
    ),
]

# --- a classifier -----------------------------------------------------------------------------

ClassificationTokens = Annotated[
    int | None, typer.Option("--tokens", "-n", help="Length of the prompt in the model's tokens (default: 10).")
]
ClassificationTemplate = Annotated[
    str | None,
    typer.Option(
        "--template",
        help="Text with {prompt}, {text} and {label} once each (default: {prompt} {text} It was {label}).",
    ),
]
FluencyWeight = Annotated[float | None, typer.Option(help="Weight of the prompt's own likelihood, in [0, 1].")]
Holdout = Annotated[
    float | None, typer.Option(help="Share of the examples by which the prompt is chosen (default: 0.2).")
]
Seeds = Annotated[
    int | None, typer.Option(help="Number of searches, one after the other; with --shots, of draws (default: 1).")
]
RandomState = Annotated[int | None, typer.Option("--seed", help="Makes the result repeatable.")]
Checkpoint = Annotated[
    Path | None, typer.Option("--resume", metavar="DIR", help="Store finished searches here, and reuse those stored.")
]

# --- the output -------------------------------------------------------------------------------

Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start again: replace what an earlier run wrote, and captions that exist.")
]
Form = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help='Print the words in this form instead, by what they are about, as in "{subject}, {medium}, {style}"; '
        "json: all of them.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Also write one page with the picture and all that is known, such as prompt.html."
    ),
]
Save = Annotated[Path | None, typer.Option(metavar="DIR", help="Also write DIR/prompt.json.")]


def given(parameters: Mapping[str, Any], but: Collection[str] = ()) -> dict[str, Any]:
    """The parameters of a command that were given, by the SDK's names, so that its defaults apply for the others.

    Args:
        parameters: the `locals()` of a command, before it does anything.
        but: parameters that are not options of the call.
    """
    return {name: value for name, value in parameters.items() if name not in but and value not in (None, [])}


def texts_of(pairs: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """`--texts` as options of a model, for `load_backend`; none where it was not given.

    Raises:
        ValueError: one has no "=", or no kind before it.
    """
    texts = {}
    for pair in pairs or ():
        kind, sign, text = pair.partition("=")
        if not sign or not kind.strip():
            raise ValueError(f"texts must be KIND=TEXT, as t5='a long text', got {pair!r}")
        texts[kind.strip()] = text
    return {"texts": texts} if texts else {}


def torch_dtype(name: str | None) -> "torch.dtype | None":
    """The dtype of a name; None for the SDK's default."""
    import torch

    dtype: torch.dtype | None = None if name is None else getattr(torch, name)
    return dtype


#: Flags that are not called as the SDK calls the option.
_FLAGS = {
    "num_tokens": "--tokens",
    "max_steps": "--steps",
    "required": "--require",
    "random_state": "--seed",
    "checkpoint": "--resume",
    "proposers": "--proposer",
}


def flag(name: str) -> str:
    """What the commands call an option of the SDK."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


def as_flags(message: str) -> str:
    """A message of the SDK about an option, which begins with its name, with the name that the commands give it.

    What it says to give to `SoftPrompt.from_file` is said as options, too.
    """
    named = re.sub(r"^[a-z]+(?:_[a-z]+)*(?= must )", lambda found: flag(found[0]), message)
    named = re.sub(
        r'rename=\{"([^"]+)": "([^"]+)"\}', lambda found: f"--rename {shlex.quote(f'{found[1]}={found[2]}')}", named
    )
    return re.sub(r"\bname=\.\.\.", "--name", re.sub(r"\bevery=True\b", "--every", named))
