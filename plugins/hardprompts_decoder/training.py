"""Training: texts alone become a decoder, with the text tower of one model."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hardprompts.atomic import write_files_atomically
from hardprompts.encoders import Backend, normalize
from hardprompts.errors import BackendError, FileFormatError, NonFiniteError, brief
from hardprompts.search.seeds import generator_of
from hardprompts_decoder.corpus import FEATURES, READING, Corpus, Progress
from hardprompts_decoder.files import Decoder
from hardprompts_decoder.network import DecoderShape, FeatureDecoder

#: The file of a training that is not done, in the folder of its decoder.
CHECKPOINT = "training.safetensors"

#: Seconds between two checkpoints.
SAVE_SECONDS = 60.0

#: The length of the noise where no pictures tell it: relative to features, whose length is 1.
IMAGE_NOISE, TEXT_NOISE = 1.0, 0.25

#: Of the texts, how many the pictures are compared with.
NEAREST = 50_000

#: How much of the weights of the step before stays in their mean.
MEAN_DECAY = 0.998

#: Of how many batches' texts, in the order of their lengths, one batch is a part.
ALIKE = 4


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """How a decoder is trained.

    Attributes:
        steps: of training, each on `batch_size` texts.
        learning_rate: the highest; it rises over `warmup` steps and falls to 0 along a cosine.
        max_tokens: longer texts are left out. Default: what the model reads, 77 at most.
        noise: the length of the noise that is added to the unit features of texts; None: the distance of pictures from
            texts, if there are pictures, else 1 for a model with an image tower, and 0.25 for one of text alone.
        width, layers, heads, prefix: see `DecoderShape`.
        bf16: whether the network computes in bfloat16.
        seed: of all randomness.

    Raises:
        ValueError: a number out of range.
    """

    steps: int = 4000
    batch_size: int = 256
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.02
    max_tokens: int | None = None
    noise: float | None = None
    width: int = 192
    layers: int = 3
    heads: int = 6
    prefix: int = 4
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "warmup"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise ValueError(
                f"learning_rate must be above 0 and weight_decay not below, got {self.learning_rate} and "
                f"{self.weight_decay}"
            )
        if self.noise is not None and not 0 <= self.noise < math.inf:
            raise ValueError(f"noise must be finite and not negative, got {self.noise}")

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train(
    backend: Backend,
    texts: Iterable[str],
    folder: Path,
    options: TrainingOptions = TrainingOptions(),
    *,
    pictures: Float[Tensor, "pictures features"] | None = None,
    progress: Progress = lambda *_: None,
    save_seconds: float = SAVE_SECONDS,
) -> Decoder:
    """Trains a decoder and writes its folder.

    A training that was interrupted resumes where its last checkpoint was, to the last bit as if it had not been, if
    it is called with the same model, texts and options again.

    Args:
        texts: what the decoder is to write like; their pictures are not needed. They are read one after another and
            not kept, so a generator may give millions.
        folder: for the decoder; meanwhile it holds a checkpoint and the features of the texts.
        pictures: unit features of images of the kind that will be inverted, which tell how far they are from texts;
            no more than a few dozen are needed, and it need not be known what they show.
        save_seconds: between two checkpoints.

    Raises:
        VocabularyError: no text can be used.
        NonFiniteError: features are NaN or infinite, or the training is.
        BackendError: the folder holds an unfinished training of something else.

    Source: CapDec (arXiv 2211.00575): texts are decoded from their own features plus noise. Deviations: the noise's
    length is measured where pictures are given, whose mean offset is taken away too; the text's length is given.
    """
    room = backend.text_encoder.max_tokens
    limit = min(room, 77 if options.max_tokens is None else options.max_tokens)
    made = Corpus.read(backend, texts, limit, folder, progress)
    run = _Run.begin(made, options, pictures, backend)
    path = folder / CHECKPOINT
    if path.exists():
        run.resume(path)
    saved = time.monotonic()
    try:
        while run.step < options.steps:
            loss = run.advance()
            progress("training", run.step, options.steps, loss)
            if time.monotonic() - saved > save_seconds:
                run.save(path)
                saved = time.monotonic()
    except KeyboardInterrupt:
        if run.is_whole:  # else the last checkpoint is where it goes on
            run.save(path)
        raise
    decoder = run.decoder(backend)
    decoder.save(folder)
    del made, run  # which hold the file of features open
    for name in (CHECKPOINT, FEATURES, READING):
        (folder / name).unlink(missing_ok=True)
    return decoder


def measured_gap(
    pictures: Float[Tensor, "pictures features"], texts: Float[Tensor, "texts features"]
) -> tuple[Float[Tensor, " features"], float]:
    """By what features of pictures differ from those of texts: the mean offset, and the length of what is left.

    Each picture is compared with the text that is nearest to it, so of the kind of texts there must be many.
    """
    shift = pictures.float().mean(dim=0) - texts.float().mean(dim=0)
    moved = normalize(pictures.float() - shift)
    nearest = texts[(moved @ texts.float().T).argmax(dim=1)].float()
    return shift, float((moved - nearest).square().sum(dim=1).mean().sqrt())


class _Run:
    """A training on its way: the network, its optimizer, the mean of its weights, and the step.

    Attributes:
        is_whole: whether all of these are of the same step.
    """

    def __init__(
        self, made: Corpus, options: TrainingOptions, shift: Tensor, noise: float, device: torch.device
    ) -> None:
        self.made, self.options, self.shift, self.noise, self.device = made, options, shift, noise, device
        self.step, self.loss, self.is_whole = 0, math.nan, True
        shape = DecoderShape(
            made.features.shape[1], len(made.known), made.longest, options.width, options.layers, options.heads,
            options.prefix,
        )  # fmt: skip
        self.network = FeatureDecoder(shape)
        generator = generator_of(options.seed)
        self.network.initialize(generator)
        self.network.know_tokens(made.table, generator)
        self.network.to(device).train()
        self.parameters = list(self.network.parameters())
        matrices = [parameter for parameter in self.parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in self.parameters if parameter.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": options.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=0.0, betas=(0.9, 0.98),
        )  # fmt: skip
        self.means = [parameter.detach().clone() for parameter in self.parameters]

    @classmethod
    def begin(
        cls,
        made: Corpus,
        options: TrainingOptions,
        pictures: Float[Tensor, "pictures features"] | None,
        backend: Backend,
    ) -> "_Run":
        """A training at its first step."""
        shift, noise = torch.zeros(made.features.shape[1]), options.noise
        if pictures is not None:
            shift, measured = measured_gap(pictures.cpu(), made.features[:NEAREST])
            noise = measured if noise is None else noise
        if noise is None:
            noise = TEXT_NOISE if backend.image_encoder is None else IMAGE_NOISE
        return cls(made, options, shift, noise, backend.device)

    def advance(self) -> float:
        """One step; returns its loss."""
        features, lengths, rows = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(self.step)
        ends = torch.full_like(rows[:, :1], self.network.shape.end)
        wanted = torch.cat([rows, ends], dim=1)
        counted = torch.arange(wanted.shape[1], device=self.device) <= lengths[:, None]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16):
            logits = self.network.logits(self.network.states(features, lengths, rows)[counted])
        loss = F.cross_entropy(logits.float(), wanted[counted])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.is_whole = False  # until all that belongs to this step is done
        self.optimizer.step()
        decay = min(MEAN_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.means, [parameter.detach() for parameter in self.parameters], 1 - decay)
        self.step, self.is_whole = self.step + 1, True
        self.loss = float(loss.detach())
        if not math.isfinite(self.loss):
            raise NonFiniteError(
                f"the training's loss became {self.loss} in step {self.step}; use a lower learning rate"
            )
        return self.loss

    def _batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Features with noise, lengths and tokens of texts that are drawn by the step's own generator."""
        generator = generator_of((self.options.seed << 32) + self.step + 1)
        size = self.options.batch_size
        drawn = torch.randint(len(self.made.lengths), (ALIKE * size,), generator=generator)
        # Texts of like length, so that little is computed behind the ends of short ones.
        first = int(torch.randint(ALIKE, (), generator=generator)) * size
        chosen = drawn[self.made.lengths[drawn].argsort(stable=True)[first : first + size]]
        features = self.made.features[chosen].float()
        # From half the length to one and a half: what is to be inverted lies nearer and farther.
        share = 0.5 + torch.rand(len(features), 1, generator=generator)
        noise = torch.randn(features.shape, generator=generator) * (self.noise / features.shape[1] ** 0.5)
        lengths, rows = self.made.lengths[chosen], self.made.rows(chosen)
        return normalize(features + share * noise).to(self.device), lengths.to(self.device), rows.to(self.device)

    # --- checkpoints ----------------------------------------------------------------------

    @property
    def _same(self) -> dict[str, Any]:
        """What must be the same of a training that goes on."""
        return {"texts": self.made.hash, "noise": self.noise, **dataclasses.asdict(self.options)}

    def save(self, path: Path) -> None:
        """Writes a checkpoint."""
        tensors: dict[str, Tensor] = {}
        for place, (parameter, mean) in enumerate(zip(self.parameters, self.means, strict=True)):
            tensors |= {f"{place}.weight": parameter.detach(), f"{place}.mean": mean}
            for name, value in self.optimizer.state.get(parameter, {}).items():
                tensors[f"{place}.optimizer.{name}"] = value
        about = {"same": json.dumps(self._same), "step": str(self.step)}
        whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
        write_files_atomically({path: safetensors.torch.save(whole, about)})

    @torch.no_grad()
    def resume(self, path: Path) -> None:
        """Resumes where a checkpoint is.

        Raises:
            BackendError: it is of another training.
            FileFormatError: it is damaged.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
            tensors = safetensors.torch.load_file(path)
            same, step = json.loads(about["same"]), int(about["step"])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise FileFormatError(f"{path} is damaged: {brief(error)}; remove it to begin anew") from error
        changed = sorted(name for name, value in self._same.items() if same.get(name) != value)
        if changed:
            raise BackendError(
                f"{path} is of an unfinished training with other {', '.join(changed)}; go on with the same, remove the "
                "file to begin anew, or save to another folder"
            )
        for place, (parameter, mean) in enumerate(zip(self.parameters, self.means, strict=True)):
            parameter.copy_(tensors[f"{place}.weight"])
            mean.copy_(tensors[f"{place}.mean"])
            prefix = f"{place}.optimizer."
            own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            # The count of steps stays on the CPU, as the optimizer has it.
            self.optimizer.state[parameter] = {
                name: value.clone() if name == "step" else value.to(self.device).clone() for name, value in own.items()
            }
        self.step = step

    @torch.no_grad()
    def decoder(self, backend: Backend) -> Decoder:
        """The decoder, with the mean of the weights."""
        for parameter, mean in zip(self.parameters, self.means, strict=True):
            parameter.copy_(mean)
        self.network.eval().requires_grad_(False)
        counts = torch.bincount(self.made.lengths, minlength=self.made.longest + 1)
        facts = {
            "texts": len(self.made.lengths), "texts_left_out": self.made.left_out, "tokens_known": len(self.made.known),
            "noise": round(self.noise, 4), "last_loss": round(self.loss, 4), "device": str(self.device),
            **{name: value for name, value in dataclasses.asdict(self.options).items() if name != "noise"},
        }  # fmt: skip
        return Decoder(self.network, self.made.known, counts, self.shift, self.made.mark, backend.name, facts)


def progress_lines(say: Callable[[str], object], seconds: float = 20.0) -> Progress:
    """Progress as lines, for logs: one in so many seconds, and one when a part is done."""
    began = reported = time.monotonic()

    def report(what: str, done: int, total: int, loss: float) -> None:
        nonlocal reported
        if time.monotonic() - reported > seconds or done == total:
            reported = time.monotonic()
            say(f"{what}: {done} of {total}, loss {loss:.3f}, {reported - began:.0f} s")

    return report
