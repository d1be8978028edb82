"""What the benchmarks with generated pictures share: targets, methods, drawing, and runs that can be continued."""

import argparse
import dataclasses
import functools
import json
import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from common import pictures
from comparison import Measurement
from PIL import Image
from torch import Tensor

from hardprompts import Backend, HardPrompt, PromptInverter, load_backend
from hardprompts.atomic import write_text_atomically
from hardprompts.distillation import descend
from hardprompts.evaluation import diversities, image_similarities
from hardprompts.noise import LATE, NoiseWindow
from hardprompts.objectives import FeatureSimilarity
from hardprompts.search import DEFAULT_METHOD, Search
from hardprompts_emoji import scenes

#: Other scenes than those of the other benchmarks, so that nothing is tuned on what is reported.
FIRST_SEED = scenes.HELD_OUT_SEED + 2_000_000
#: Suffixes of target pictures in a folder; a text file of the same name holds the true caption.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclasses.dataclass(frozen=True)
class Method:
    """How a prompt is found.

    Attributes:
        kind: "clip" follows the similarity of a dual encoder, "diffusion" the generator's denoising error;
            "soft" optimizes embeddings by the dual encoder and gives them to the generator as they are;
            "text" takes the true caption, or nothing.
        search: the method; a name, or one with its own hyperparameters; of "text", "caption" or "empty".
        bank: whether only words of the world are allowed.
        options: further ones of the inverter.
    """

    kind: Literal["clip", "diffusion", "soft", "text"]
    search: str | Search = DEFAULT_METHOD
    bank: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all runs of a benchmark share; runs of another setting are not continued.

    Attributes:
        evaluations: passes of one prompt for each target, forward and backward counted apart, of the dual
            encoder or the denoiser, as the engine counts them.
        noises, noises_per_step: of the denoiser's bank, and of them for one gradient.
        pictures: drawn for each prompt.
    """

    generator: str = "emoji-sd"
    backend: str = "emoji"
    judge: str = "emoji:emoji-clip-reference"
    images: str = ""
    targets: int = 100
    evaluations: int = 2000
    noises: int = 16
    noises_per_step: int = 4
    steps: int = 20
    guidance_scale: float = 3.0
    pictures: int = 1
    device: str = ""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One batch of runs: some targets, one seed, one method, one length."""

    method: str
    num_tokens: int
    seed: int
    targets: tuple[int, ...]


def key(record: Mapping[str, Any]) -> tuple[str, int, int, int]:
    """What makes a run unique."""
    return (record["method"], record["num_tokens"], record["seed"], record["target"])


# --- models and targets -------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Models:
    """What one process has open."""

    pipe: Any
    backend: Backend
    judge: Backend


def generator_folder(name: str) -> str:
    """Where a generator is: an embedded model's folder, or the folder or hub id itself.

    Raises:
        SystemExit: the embedded model is not there.
    """
    if not name.startswith("emoji-"):
        return name
    import hardprompts_emoji

    try:
        return str(hardprompts_emoji.path(name))
    except ValueError as error:
        sys.exit(
            f"{error}; train and export it (plugins/hardprompts_emoji/recipe), or give --generator a folder or a hub id"
        )


@functools.cache
def open_models(setting: Setting) -> Models:
    """The generator, the model that is searched through, and the judge."""
    try:
        from diffusers import DiffusionPipeline
    except ImportError:
        sys.exit('drawing pictures needs diffusers: pip install "hardprompts[diffusers]"')
    from hardprompts_diffusers import enable_prompt_inversion

    device = setting.device or ("cuda" if torch.cuda.is_available() else "cpu")
    pipe = DiffusionPipeline.from_pretrained(generator_folder(setting.generator)).to(device)
    pipe.set_progress_bar_config(disable=True)
    backend, judge = (load_backend(name, device=device) for name in (setting.backend, setting.judge))
    return Models(enable_prompt_inversion(pipe), backend, judge)


@functools.cache
def targets(setting: Setting) -> tuple[list[Image.Image], list[str]]:
    """The target pictures and their true captions: scenes with one and with two objects in turn, or a folder's."""
    if not setting.images:
        of = [scenes.sample_drawable_scene(FIRST_SEED + i, 1 + i % 2) for i in range(setting.targets)]
        return pictures(of), [scenes.caption(scene) for scene in of]
    paths = sorted(path for path in Path(setting.images).iterdir() if path.suffix.lower() in SUFFIXES)[
        : setting.targets
    ]
    if not paths:
        sys.exit(f"no pictures in {setting.images}; known are {', '.join(SUFFIXES)}")
    texts = [path.with_suffix(".txt") for path in paths]
    captions = [text.read_text(encoding="utf-8").strip() if text.exists() else "" for text in texts]
    return [Image.open(path).convert("RGB") for path in paths], captions


def bank() -> list[str]:
    """Every word that a caption of the embedded world may have."""
    names = [word for name, keywords in scenes.OBJECTS.items() for word in (name, *keywords)]
    words = [word for group in (*scenes.BACKGROUNDS.values(), *scenes.STYLES.values()) for word in group]
    return sorted({*names, *words, *"a an the of and on in at with background picture scene style small large".split()})


# --- finding prompts ----------------------------------------------------------------------


def invert_with_pipeline(
    pipe: Any, images: Sequence[Image.Image], method: Method, num_tokens: int, seed: int, setting: Setting
) -> list[HardPrompt]:
    """The prompt of each image by the generator's own denoising error, at the setting's number of passes."""
    options: dict[str, Any] = {
        "window": LATE,
        "num_noises": setting.noises,
        "noises_per_step": setting.noises_per_step,
        **method.options,
    }
    if method.bank:
        options["vocabulary"] = bank()
    if isinstance(options["window"], tuple):
        options["window"] = NoiseWindow(*options["window"])
    found = pipe.invert_prompt(
        list(images), match="diffusion", num_tokens=num_tokens, method=method.search, batch_size=32,
        max_evaluations=len(images) * setting.evaluations, generator=torch.Generator().manual_seed(seed), **options,
    )  # fmt: skip
    return list(found.hard_prompts)


def invert_with_clip(
    backend: Backend, images: Sequence[Image.Image], method: Method, num_tokens: int, seed: int, setting: Setting
) -> list[HardPrompt]:
    """The prompt of each image by the dual encoder, at the setting's number of passes."""
    options: dict[str, Any] = {**method.options, **({"vocabulary": bank()} if method.bank else {})}
    return PromptInverter(backend, method.search, proposers="none").invert_each(
        list(images), num_tokens=num_tokens, seed=seed, batch_size=len(images), progress=False,
        max_evaluations=len(images) * setting.evaluations, **options,
    )  # fmt: skip


def soft_prompts(
    backend: Backend, images: Sequence[Image.Image], num_tokens: int, seed: int, setting: Setting
) -> tuple[Tensor, list[float]]:
    """(images, tokens, dim) embeddings that are most similar to each image by the dual encoder, and how similar.

    AdamW from random tokens, one restart, all passes: what hard prompts are compared with as "soft".
    """
    vocabulary = backend.vocabulary
    ones = torch.ones(len(images), 1, device=backend.device)
    objective = FeatureSimilarity(backend.text_encoder, backend.encode_images(list(images))[:, None], ones)
    start = vocabulary.sample((len(images), num_tokens), torch.Generator().manual_seed(seed))
    best, losses = descend(
        objective, vocabulary.embed(start), vocabulary, max_steps=max(0, setting.evaluations // 2 - 1)
    )  # fmt: skip
    return best, [1 - loss for loss in losses]


# --- drawing ------------------------------------------------------------------------------


def picture_seeds(target: int, seed: int, count: int) -> list[int]:
    """The seeds of a run's pictures: the same for every method, so that differences are not of noise."""
    return [(target * 1009 + seed) * 31 + place for place in range(count)]


def draw(
    models: Models, prompts: "Sequence[str] | Tensor", seeds: Sequence[int], setting: Setting
) -> list[Image.Image]:
    """One picture for each text, or for each row of soft prompts, with a seed of its own."""
    drawn: list[Image.Image] = []
    for start in range(0, len(seeds), 32):
        part = slice(start, start + 32)
        if isinstance(prompts, Tensor):
            states = text_states(models, prompts[part])
            nothing = text_states(models, prompts[:1, :0]).expand_as(states)
            given: dict[str, Any] = {"prompt_embeds": states, "negative_prompt_embeds": nothing}
        else:
            given = {"prompt": list(prompts[part])}
        drawn += models.pipe(
            **given,
            num_inference_steps=setting.steps,
            guidance_scale=setting.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
        ).images
    return drawn


def text_states(models: Models, soft: Tensor) -> Tensor:
    """What the generator's text encoder makes of soft prompts, for `prompt_embeds`.

    Raises:
        SystemExit: the generator takes more than that one tensor, or has other tokens than the dual encoder.
    """
    from hardprompts_diffusers import noise_predictor

    predictor = noise_predictor(models.pipe)
    own, searched = predictor.vocabulary.table, models.backend.vocabulary.table
    if own.shape != searched.shape or not torch.allclose(own.float(), searched.to(own.device).float(), atol=1e-2):
        sys.exit(
            "a soft prompt fits a generator only if its text encoder is that of --backend; leave soft out of --methods"
        )
    with torch.no_grad():
        states = predictor.condition(soft).tensors
    if len(states) != 1:
        sys.exit("a soft prompt can be given to Stable Diffusion 1.x and 2.x alone; leave soft out of --methods")
    return states[0]


# --- runs ---------------------------------------------------------------------------------


def measure(unit: Unit, method: Method, setting: Setting, keep: str = "") -> list[dict[str, Any]]:
    """Finds the prompts of a unit, draws them, judges the pictures, and keeps those of seed 0 in a folder."""
    torch.set_num_threads(1)
    models = open_models(setting)
    all_images, captions = targets(setting)
    images = [all_images[target] for target in unit.targets]
    repeats = setting.pictures
    seeds = [seed for target in unit.targets for seed in picture_seeds(target, unit.seed, repeats)]
    texts, ids, scores = [""] * len(images), [()] * len(images), [0.0] * len(images)
    evaluations, soft, start = 0.0, None, time.perf_counter()
    if method.kind == "soft":
        soft, scores = soft_prompts(models.backend, images, unit.num_tokens, unit.seed, setting)
        evaluations = 2.0 * max(1, setting.evaluations // 2)
    elif method.kind == "text":
        texts = [captions[target] for target in unit.targets] if method.search == "caption" else texts
        ids = [tuple(models.backend.vocabulary.encode(text)) for text in texts]
    else:
        found = (
            invert_with_clip(models.backend, images, method, unit.num_tokens, unit.seed, setting)
            if method.kind == "clip"
            else invert_with_pipeline(models.pipe, images, method, unit.num_tokens, unit.seed, setting)
        )
        texts, ids, scores = ([getattr(one, what) for one in found] for what in ("filled", "token_ids", "score"))
        evaluations = found[0].evaluations / len(found)  # it counts the whole batch
    seconds = time.perf_counter() - start
    prompts = (
        [text for text in texts for _ in range(repeats)] if soft is None else soft.repeat_interleave(repeats, dim=0)
    )
    drawn = draw(models, prompts, seeds, setting)
    own = [drawn[place * repeats : (place + 1) * repeats] for place in range(len(images))]
    if keep and unit.seed == 0:
        Path(keep).mkdir(parents=True, exist_ok=True)
        for target, kept in zip(unit.targets, own, strict=True):
            kept[0].save(picture_path(Path(keep), unit.method, unit.num_tokens, target))
    diversity = diversities(own, models.judge) if repeats > 1 else [None] * len(images)
    columns = zip(
        unit.targets, texts, ids, scores, image_similarities(own, images, models.judge), diversity, strict=True
    )
    return [
        {
            "method": unit.method, "num_tokens": unit.num_tokens, "seed": unit.seed, "target": target, "prompt": text,
            "ids": list(tokens), "score": score, "similarity": similarity, "diversity": different,
            "evaluations": evaluations, "seconds": round(seconds / len(images), 3),
        }
        for target, text, tokens, score, similarity, different in columns
    ]  # fmt: skip


def picture_path(folder: Path, method: str, num_tokens: int, target: int) -> Path:
    """Where the picture of a run with seed 0 is kept."""
    return folder / f"{''.join(c if c.isalnum() else '_' for c in method)}-{num_tokens}-{target}.png"


def run(
    units: Iterable[Unit], methods: Mapping[str, Method], setting: Setting, output: Path, workers: int, keep: str = ""
) -> list[dict[str, Any]]:
    """The records of all units; those that `output`.jsonl has already are not measured again.

    Raises:
        SystemExit: the file is of another setting.
    """
    path = output.with_suffix(".jsonl")
    head = json.dumps(dataclasses.asdict(setting))
    records = _read(path, head)
    done = {key(record) for record in records}
    open_units = []
    for unit in units:
        left = tuple(t for t in unit.targets if (unit.method, unit.num_tokens, unit.seed, t) not in done)
        if left:
            open_units.append(dataclasses.replace(unit, targets=left))
    path.parent.mkdir(parents=True, exist_ok=True)
    total, start = len(open_units), time.perf_counter()
    with open(path, "a", encoding="utf-8") as file:
        if not records and not path.stat().st_size:
            file.write(head + "\n")
        for number, found in enumerate(_measured(open_units, methods, setting, workers, keep), 1):
            records += found
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in found)
            file.flush()
            mean = sum(record["similarity"] for record in found) / len(found)
            name, seconds = found[0]["method"], time.perf_counter() - start
            print(f"{number}/{total} {seconds:.0f} s: {name}, {found[0]['num_tokens']} tokens: {mean:.3f}", flush=True)
    return records


def _measured(
    units: Sequence[Unit], methods: Mapping[str, Method], setting: Setting, workers: int, keep: str
) -> Iterable[list[dict[str, Any]]]:
    if workers < 2:
        yield from (measure(unit, methods[unit.method], setting, keep) for unit in units)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(measure, unit, methods[unit.method], setting, keep) for unit in units]
        for finished in as_completed(runs):
            yield finished.result()


def _read(path: Path, head: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [head]
    if first != head:
        sys.exit(f"{path} was made with other settings; remove it, or give another --output\n{first}\n{head}")
    records = []
    for line in lines:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break  # the last line of a run that was killed
    complete = "".join(f"{text}\n" for text in [head, *(json.dumps(r, ensure_ascii=False) for r in records)])
    write_text_atomically(path, complete)
    return records


# --- tables -------------------------------------------------------------------------------


def measurement(
    records: Iterable[Mapping[str, Any]], method: str, num_tokens: int, what: str = "similarity"
) -> Measurement:
    """One figure for each target, the mean over its seeds, in the order of the targets."""
    by_target: dict[int, list[float]] = {}
    for record in records:
        if record["method"] == method and record["num_tokens"] == num_tokens:
            by_target.setdefault(record["target"], []).append(record[what])
    return Measurement.of_runs(method, [by_target[target] for target in sorted(by_target)])


def batches(count: int, size: int) -> list[tuple[int, ...]]:
    """The targets 0 to count - 1, in parts of equal size."""
    return [tuple(range(start, min(start + size, count))) for start in range(0, count, size)]


def command() -> str:
    """What was typed to start this program."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that the benchmarks share; those of `Setting` and of `run`."""
    for field in dataclasses.fields(Setting):
        flag, default = f"--{field.name.replace('_', '-')}", field.default
        parser.add_argument(flag, type=type(default), default=default, help=_HELP.get(field.name))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each target")
    parser.add_argument("--num-tokens", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1, help="processes, of one thread each")
    parser.add_argument("--batch", type=int, default=10, help="targets that are searched together")
    parser.add_argument("--docs", type=Path, default=Path(__file__).parent.parent / "docs", help="where pages go")


def setting_of(arguments: argparse.Namespace) -> Setting:
    """The setting that the options describe."""
    return Setting(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Setting)})


_HELP = {
    "generator": "an embedded model, or a folder or hub id for diffusers",
    "backend": "the dual encoder that is searched through",
    "judge": "the dual encoder that compares pictures",
    "images": "a folder of target pictures, with .txt files for their true captions; default: scenes",
    "evaluations": "passes of one prompt, forward and backward, for each target",
    "device": "default: CUDA where there is one",
}
