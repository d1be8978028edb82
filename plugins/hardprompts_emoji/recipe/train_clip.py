"""Stage 2: train the text tower and align both towers; continues from ``train_image_tower``.

Run ``python -m hardprompts_emoji.recipe.train_clip --model emoji-clip``. Each drawing, background
and style has a unit vector in the shared space; the target of an image or a text is the normalized
weighted sum of the vectors of what it shows or names. Both towers are regressed on these targets,
next to the contrastive losses, so that naming everything, and nothing else, is what scores highest.
A pool of texts found by gradient (HotFlip) against the current towers keeps a search over prompts
from finding nonsense that scores better.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer

from hardprompts_emoji.recipe.build_tokenizer import CONTEXT_LENGTH, build
from hardprompts_emoji.recipe.clock import Clock
from hardprompts_emoji.recipe.loop import save_state
from hardprompts_emoji.recipe.optimizer import Muon, split_parameters
from hardprompts_emoji.recipe.stream import PictureStream
from hardprompts_emoji.recipe.texts import (
    BACKGROUND_INDEX,
    NONSENSE,
    NUM_ATTRIBUTES,
    OBJECT_INDEX,
    STYLE_INDEX,
    Meanings,
    Texts,
    scene_weights,
    to_matrix,
)
from hardprompts_emoji.recipe.train_image_tower import (
    MODELS,
    Run,
    TowerSizes,
    object_targets,
    set_learning_rates,
    vision_config,
)
from hardprompts_emoji.scenes import BACKGROUNDS, OBJECTS, STYLES, Scene

NUM_OBJECTS = len(OBJECTS)
NAMES_PER_STEP = 48
OTHER_TEXTS_PER_STEP = 64
FILLED_TEXTS_PER_STEP = 32
FILLER_MARGIN = 0.06
SEARCHED_TEXTS = 32
SEARCH_FROM = 0.15
LOSS_WEIGHTS = {"label": 1.0, "image_gap": 5.0, "text_gap": 16.0, "filler": 15.0}


def build_model(sizes: TowerSizes, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Return an untrained CLIPModel."""
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.text_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        max_position_embeddings=CONTEXT_LENGTH,
        projection_dim=sizes.projection,
        hidden_act="gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = CLIPConfig(
        text_config=text.to_dict(), vision_config=vision_config(sizes).to_dict(), projection_dim=sizes.projection
    )
    return CLIPModel._from_config(config, attn_implementation="eager")


class Attributes(nn.Module):
    """One unit vector for each drawing, background, style, for nonsense, and for how many things there are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_ATTRIBUTES, width))

    def vectors(self) -> Tensor:
        """Return (NUM_ATTRIBUTES, width) unit vectors."""
        return functional.normalize(self.weight, dim=1)

    def label_loss(self, features: Tensor, scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
        """Return (classification loss, share of scenes whose likeliest drawing is in them)."""
        logits = 24 * features @ self.vectors().T
        device = features.device
        targets = object_targets(scenes).to(device)
        backgrounds = torch.tensor(
            [BACKGROUND_INDEX[scene.background] - NUM_OBJECTS for scene in scenes], device=device
        )
        styles = torch.tensor(
            [STYLE_INDEX[scene.style] - NUM_OBJECTS - len(BACKGROUNDS) for scene in scenes], device=device
        )
        loss = functional.cross_entropy(logits[:, :NUM_OBJECTS], targets)
        loss = loss + 0.3 * functional.cross_entropy(
            logits[:, NUM_OBJECTS : NUM_OBJECTS + len(BACKGROUNDS)], backgrounds
        )
        loss = loss + 0.5 * functional.cross_entropy(logits[:, NUM_OBJECTS + len(BACKGROUNDS) : NONSENSE], styles)
        hits = (targets.gather(1, logits[:, :NUM_OBJECTS].argmax(1, keepdim=True)) > 0).float().mean()
        return loss, hits

    def targets(self, weights: Tensor) -> Tensor:
        """Return (n, width) unit vectors for (n, NUM_ATTRIBUTES) weights."""
        return functional.normalize(weights.to(self.weight.device) @ self.vectors(), dim=1)


def pad(texts: Sequence[Sequence[int]], tokenizer: CLIPTokenizer) -> Tensor:
    """Return (n, longest + 2) ids with start and end; shorter texts are padded with the end token."""
    longest = max(map(len, texts)) + 2
    ids = torch.full((len(texts), longest), tokenizer.eos_token_id)
    ids[:, 0] = tokenizer.bos_token_id
    for row, text in zip(ids, texts, strict=True):
        row[1 : len(text) + 1] = torch.tensor(text)
    return ids


def text_features(model: CLIPModel, ids: Tensor) -> Tensor:
    """Return (n, projection) unit features of padded ids."""
    ids = ids.to(model.device)
    return functional.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output), dim=1)


def image_features(model: CLIPModel, pictures: Tensor) -> Tensor:
    """Return (n, projection) unit features of normalized pictures."""
    return functional.normalize(model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output), dim=1)


class SearchedTexts:
    """A pool of texts that a gradient search changes, one token a step, to score high for an image."""

    def __init__(self, size: int, meanings: Meanings, texts: Texts) -> None:
        self.size = size
        self.meanings = meanings
        self.texts = texts
        self.allowed = torch.tensor(meanings.ordinary)
        self.ids: list[list[int]] = []
        self.images: list[Tensor] = []

    def refill(self, features: Tensor, scenes: Sequence[Scene]) -> None:
        """Replace some of the pool by fresh starts for the images of this step, (n, width) features."""
        keep = [i for i in range(len(self.ids)) if self.texts.random.random() > 0.1]
        self.ids = [self.ids[i] for i in keep]
        self.images = [self.images[i] for i in keep]
        for feature, scene in zip(features.detach(), scenes, strict=True):
            if len(self.ids) >= self.size:
                break
            text = self.texts.complete(scene) if self.texts.random.random() < 0.5 else self.texts.unrelated()
            filler = [self.texts.random.choice(self.meanings.ordinary) for _ in range(max(0, 8 - len(text)))]
            start = [*text, *filler][: self.texts.random.choice((4, 6, 8, 8, 10))]
            self.ids.append(start)
            self.images.append(feature)

    def advance(self, model: CLIPModel, tokenizer: CLIPTokenizer) -> None:
        """Exchange, in every text, one token for one of those that promise the greatest gain."""
        ids = pad(self.ids, tokenizer)
        gradient, embeddings = similarity_gradient(model, ids, torch.stack(self.images))
        with torch.no_grad():
            table = model.text_model.embeddings.token_embedding.weight[self.allowed.to(model.device)]
            gains = gradient @ table.T - (gradient * embeddings).sum(-1, keepdim=True)
            lengths = torch.tensor([len(text) for text in self.ids])
            place = torch.arange(ids.shape[1])[None]
            outside = (place < 1) | (place > lengths[:, None])
            gains.masked_fill_(outside.to(gains.device)[..., None], -torch.inf)
            best = gains.flatten(1).topk(6, dim=1).indices
        for text, options in zip(self.ids, best.tolist(), strict=True):
            position, token = divmod(self.texts.random.choice(options), len(self.allowed))
            text[position - 1] = int(self.allowed[token])


def best_fillers(
    model: CLIPModel, tokenizer: CLIPTokenizer, texts: Texts, images: Tensor, scenes: Sequence[Scene]
) -> list[tuple[int, ...]]:
    """Return, for every (n, width) image feature, its true words with the fillers that gradient likes best."""
    lists = [texts.padded_list(scene) for scene in scenes]
    ids = pad([text for text, _ in lists], tokenizer)
    gradient, _ = similarity_gradient(model, ids, images.detach())
    allowed = torch.tensor(texts.meanings.ordinary)
    with torch.no_grad():
        table = model.text_model.embeddings.token_embedding.weight[allowed.to(model.device)]
        best = (gradient @ table.T).topk(2, dim=-1).indices.tolist()
    for row, (text, fillers) in enumerate(lists):
        for place in fillers:
            text[place] = int(allowed[best[row][place + 1][texts.random.randrange(2)]])
    return [tuple(text) for text, _ in lists]


def similarity_gradient(model: CLIPModel, ids: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of each text's similarity by its token embeddings, and these, (n, length, dim)."""
    captured: list[Tensor] = []
    table = model.text_model.embeddings.token_embedding
    handle = table.register_forward_hook(lambda module, inputs, output: captured.append(output))
    similarity = (text_features(model, ids) * images).sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(similarity, captured)
    return gradient, captured[0].detach()


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> Tensor:
    """Return symmetric InfoNCE of (n, width) images against (n + m, width) texts; the first n belong."""
    logits = scale * images @ texts.T
    labels = torch.arange(len(images), device=images.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits[:, : len(images)].T, labels)) / 2


def filler_loss(images: Tensor, shown: Tensor, features: Mapping[str, Tensor], told: Tensor) -> Tensor:
    """Return by how much true words with flattering fillers come too near to, or above, what is true.

    Args:
        images: (n, width) features of the images.
        shown: (n, width) targets of the images.
        features: Text features by kind; ``filled`` belong to the first images.
        told: Targets of the ``filled`` texts.
    """
    filled = features["filled"]
    count = len(filled)
    gains = (images[:count] * (filled - features["complete"][:count])).sum(1)
    # A filler may be a true word by chance; then there is nothing to push apart.
    wrong = (shown[:count] * told).sum(1).detach() < 0.98
    return (gains + FILLER_MARGIN * wrong).clamp(min=0).mean()


def names_loss(
    model: CLIPModel, tokenizer: CLIPTokenizer, images: Tensor, scenes: Sequence[Scene], texts: Texts
) -> Tensor:
    """Return the softmax loss of images against single names, colors and styles."""
    present = {item.name for scene in scenes for item in scene.objects}
    chosen = [*present, *(name for name in texts.random.sample(tuple(OBJECTS), NAMES_PER_STEP) if name not in present)]
    every = [*chosen, *BACKGROUNDS, *STYLES]
    features = text_features(model, pad([texts.encode(text) for text in every], tokenizer))
    logits = model.logit_scale.exp() * images @ features.T
    columns = torch.tensor([OBJECT_INDEX[name] for name in chosen])
    loss = functional.cross_entropy(logits[:, : len(chosen)], object_targets(scenes)[:, columns].to(images.device))
    colors = logits[:, len(chosen) : len(chosen) + len(BACKGROUNDS)]
    styles = logits[:, len(chosen) + len(BACKGROUNDS) :]
    color_labels = torch.tensor([list(BACKGROUNDS).index(s.background) for s in scenes], device=images.device)
    style_labels = torch.tensor([list(STYLES).index(s.style) for s in scenes], device=images.device)
    loss = loss + 0.3 * functional.cross_entropy(colors, color_labels)
    return loss + 0.3 * functional.cross_entropy(styles, style_labels)


@dataclass(frozen=True)
class TextBatch:
    """The texts of one step as token ids, by where they come from."""

    complete: list[tuple[int, ...]]
    corrupted: list[tuple[int, ...]]
    unrelated: list[tuple[int, ...]]
    searched: list[tuple[int, ...]]
    filled: list[tuple[int, ...]]

    @property
    def all(self) -> list[tuple[int, ...]]:
        """Return all texts, in the order of the fields."""
        return [*self.complete, *self.corrupted, *self.unrelated, *self.searched, *self.filled]

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """Return the rows of (texts, ...) values of each kind."""
        kinds = ("complete", "corrupted", "unrelated", "searched", "filled")
        return dict(zip(kinds, values.split([len(getattr(self, kind)) for kind in kinds]), strict=True))


class Trainer:
    """All that one run needs; ``step`` does one update."""

    def __init__(self, sizes: TowerSizes, image_tower: Path | None, checkpoint: Path, run: Run) -> None:
        torch.manual_seed(sizes.seed + 100)
        self.tokenizer = build()
        self.device = run.device
        self.batch_size = run.batch_size
        self.polished: tuple[int, float] | None = None  # steps and seconds of stage 3
        self.model = build_model(sizes, self.tokenizer).to(run.device)
        self.attributes = Attributes(sizes.projection).to(run.device)
        self.checkpoint = checkpoint
        self.optimizers = self._build_optimizers()
        self.steps = 0
        spent = 0.0
        if checkpoint.exists():
            spent = self._resume(torch.load(checkpoint, weights_only=True, map_location=run.device))
        elif image_tower is not None:
            self._start_from(torch.load(image_tower, weights_only=True, map_location=run.device))
        self.clock = Clock(run.minutes * 60, spent)
        self.random = random.Random(sizes.seed * 7919 + 13 + self.steps)
        stream = PictureStream(sizes.seed * 7919 + 13 + self.steps, self.clock, run.batch_size, start=0.45, slope=0.7)
        self.pictures = stream.batches(run.workers, run.device)
        self.meanings = Meanings(self.tokenizer)
        self.texts = Texts(self.meanings, self.random)
        self.searched = SearchedTexts(SEARCHED_TEXTS, self.meanings, self.texts)

    def _build_optimizers(self) -> list[torch.optim.Optimizer]:
        hidden_vision, rest = split_parameters(self.model.vision_model)
        hidden_text, rest_text = split_parameters(self.model.text_model)
        rest += [self.model.visual_projection.weight, self.model.text_projection.weight, self.model.logit_scale]
        return [
            torch.optim.AdamW([{"params": rest, "lr": 8e-4}, {"params": rest_text, "lr": 2e-3}], weight_decay=0.01),
            torch.optim.AdamW(self.attributes.parameters(), lr=2e-3, weight_decay=0.0),
            Muon(hidden_vision, lr=0.015),
            Muon(hidden_text, lr=0.02),
        ]

    def _resume(self, state: dict[str, Any]) -> float:
        """Load a checkpoint; return the seconds already spent."""
        self.model.load_state_dict(state["model"])
        self.attributes.load_state_dict(state["attributes"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps = state["step"]
        return float(state["spent"])

    def _start_from(self, state: dict[str, dict[str, Tensor]]) -> None:
        missing, unexpected = self.model.load_state_dict(state["tower"], strict=False)
        assert not unexpected and all(key.startswith(("text", "logit")) for key in missing)
        heads = state["heads"]
        rows = torch.cat([heads["objects.weight"], heads["backgrounds.weight"], heads["styles.weight"]])
        with torch.no_grad():
            self.attributes.weight.copy_(self.attributes.vectors())
            self.attributes.weight[:NONSENSE] = functional.normalize(rows, dim=1)
            self.model.logit_scale.fill_(3.0)

    def step(self) -> dict[str, Tensor]:
        """Do one update; return the losses."""
        set_learning_rates(self.optimizers, self.steps, self.clock.progress)
        scenes, pictures = next(self.pictures)
        images = image_features(self.model, pictures)
        batch = self._draw_texts(images, scenes)
        losses = self._losses(images, scenes, batch, self.text_features_of(batch.all))
        # The image tower knows something already; a text tower that knows nothing must not spoil it.
        ramp = min(1.0, self.steps / 150)
        weights = {**LOSS_WEIGHTS, "contrast": ramp, "name": 0.7 * ramp}
        loss = torch.stack([weight * losses[key] for key, weight in weights.items()]).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            self.model.logit_scale.clamp_(2.0, 4.2)
        self.steps += 1
        return {key: value.detach() for key, value in losses.items()}

    def _draw_texts(self, images: Tensor, scenes: Sequence[Scene]) -> TextBatch:
        if self.clock.progress > SEARCH_FROM:
            self.searched.refill(images, scenes)
            self.searched.advance(self.model, self.tokenizer)
        some = slice(FILLED_TEXTS_PER_STEP)
        return TextBatch(
            complete=[self.texts.complete(scene) for scene in scenes],
            corrupted=[self.texts.corrupted(scene) for scene in scenes[::4]],
            unrelated=[self.texts.unrelated() for _ in range(OTHER_TEXTS_PER_STEP)],
            searched=[tuple(text) for text in self.searched.ids],
            filled=best_fillers(self.model, self.tokenizer, self.texts, images[some], scenes[some]),
        )

    def text_features_of(self, texts: Sequence[tuple[int, ...]]) -> Tensor:
        """Return (texts, width) features, computed for short and for long texts apart to save padding."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        halves = (order[: len(order) // 2], order[len(order) // 2 :])
        computed = [text_features(self.model, pad([texts[i] for i in half], self.tokenizer)) for half in halves]
        return torch.cat(computed)[torch.tensor(order).argsort().to(self.device)]

    def _losses(self, images: Tensor, scenes: Sequence[Scene], batch: TextBatch, features: Tensor) -> dict[str, Tensor]:
        shown = self.attributes.targets(to_matrix([scene_weights(scene) for scene in scenes]))
        told = self.attributes.targets(to_matrix([self.meanings.read(text) for text in batch.all])).detach()
        label, hit = self.attributes.label_loss(images, scenes)
        text_gaps = 1 - (features * told).sum(1)
        by_kind = {f"gap_{kind}": gaps.sum() / max(1, len(gaps)) for kind, gaps in batch.split(text_gaps).items()}
        tied = len(batch.complete) + len(batch.corrupted)
        return {
            "label": label,
            "contrast": contrastive_loss(images, features[:tied], self.model.logit_scale.exp()),
            "name": names_loss(self.model, self.tokenizer, images, scenes, self.texts),
            "image_gap": 1 - (images * shown).sum(1).mean(),
            "text_gap": text_gaps.mean(),
            "filler": filler_loss(images, shown, batch.split(features), batch.split(told)["filled"]),
            "hit": hit,
            **by_kind,
        }

    def save(self) -> None:
        """Write the checkpoint from which a run resumes and the export reads."""
        save_state(
            self.checkpoint,
            model=self.model.state_dict(),
            attributes=self.attributes.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
            step=self.steps,
            spent=self.clock.spent,
            batch_size=self.batch_size,
            polished=self.polished,
        )

    def run(self) -> None:
        """Train until the clock runs out."""
        saved_at = reported_at = self.clock.spent
        history: list[dict[str, Tensor]] = []
        finished = False
        while not finished:
            finished = self.clock.progress >= 1
            history.append(self.step())
            if self.clock.spent - reported_at > 20:
                reported_at = self.clock.spent
                averages = {key: float(torch.stack([losses[key] for losses in history]).mean()) for key in history[0]}
                means = " ".join(f"{key} {value:.3f}" for key, value in averages.items())
                print(f"{self.clock.spent:6.0f} s step {self.steps:5d} {means}", flush=True)
                history.clear()
            if finished or self.clock.spent - saved_at > 120:
                saved_at = self.clock.spent
                self.save()


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    Run.add_arguments(parser, minutes=70)
    arguments = parser.parse_args()
    folder = arguments.work_dir / arguments.model
    Trainer(MODELS[arguments.model], folder / "image_tower.pt", folder / "clip.pt", Run.of(arguments)).run()


if __name__ == "__main__":
    main()
