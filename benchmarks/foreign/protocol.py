"""What the adapters of foreign programs share: targets, a text tower that counts its passes, and the file of a row.

The adapters run in an environment of their own, which needs torch, transformers, safetensors and NumPy, and nothing of
hardprompts. An adapter is called as

    python ADAPTER.py TARGETS_FOLDER ROW.json --suite SUITE --passes N --seed S

It reads TARGETS_FOLDER, which `python benchmarks/neutral.py --targets-only TARGETS_FOLDER` wrote, and writes a row: see
`Task.row`.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

#: Ids that programs for CLIP have built in; the adapters translate them.
START, END, CONTEXT = 49406, 49407, 77


class Task:
    """One suite of targets.

    Attributes:
        ids: of the targets.
        features: (targets, dim), unit length: what a prompt's features are to resemble.
        tokens: of a prompt.
        passes: for each target; one is a prompt through the text tower, or back through it.
        tower: of the model that is searched.
    """

    def __init__(self, folder: Path, suite: str, passes: int, seed: int) -> None:
        listed = json.loads((folder / "targets.json").read_text(encoding="utf-8"))["suites"][suite]
        self.suite, self.passes, self.seed = suite, passes, seed
        self.ids: list[str] = [target["id"] for target in listed["targets"]]
        self.features = load_file(folder / "features.safetensors")[suite]
        self.tokens: int = listed["tokens"]
        self.tower = Tower(Path(listed["text_model"]))
        self.language_model = listed["language_model"]

    def row(
        self, name: str, program: str, differences: Sequence[str], prompt: Callable[[Tensor], str]
    ) -> dict[str, Any]:
        """Runs a program on each target.

        Args:
            program: what it is, with its version or commit.
            differences: from the program as its authors run it.
            prompt: from (1, dim) to a text.
        """
        texts, seconds, passes = {}, {}, {}
        for place, target in enumerate(self.ids):
            set_seed(self.seed + place)
            self.tower.passes = 0
            began = time.process_time()
            texts[target] = prompt(self.features[place : place + 1].clone())
            seconds[target], passes[target] = round(time.process_time() - began, 3), self.tower.passes
            print(f"{name}: {target}: {passes[target]} passes, {seconds[target]:.1f} s, {texts[target]!r}", flush=True)
        return {
            "name": name, "program": program, "suite": self.suite, "differences": list(differences), "prompts": texts,
            "budget": f"{self.passes} passes", "passes": passes, "seconds": seconds,
        }  # fmt: skip


def arguments(doc: str | None, **more: Any) -> tuple[argparse.Namespace, Task]:
    """The command line of an adapter, and its task.

    Args:
        more: further options with their defaults, whose type they have.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", type=Path)
    parser.add_argument("row", type=Path)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    for option, default in more.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    return given, Task(given.targets, given.suite, given.passes, given.seed)


def write(path: Path, row: dict[str, Any]) -> None:
    """Writes a row."""
    path.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def set_seed(seed: int) -> None:
    """For all that programs draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def commit(checkout: Path) -> str:
    """The commit of a checkout, or "unknown commit"."""
    head = checkout / ".git" / "HEAD"
    named = head.read_text(encoding="utf-8").strip() if head.exists() else ""
    if named.startswith("ref: "):
        found = checkout / ".git" / named[5:]
        named = found.read_text(encoding="utf-8").strip() if found.exists() else ""
    marked = checkout / "COMMIT"
    return (marked.read_text(encoding="utf-8").strip() if marked.exists() else named)[:7] or "unknown commit"


class Tower:
    """The text tower of a CLIP, or a sentence encoder (BERT, the mean of its states), of a folder of transformers.

    Attributes:
        passes: prompts that went through it, those that went back through it counted once more.
        table: (tokens, dim), of the token embeddings.
        context: tokens of a text with the special ones.
    """

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.is_clip = config["model_type"] == "clip"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        if self.is_clip:
            self.model = transformers.CLIPModel.from_pretrained(folder, attn_implementation="sdpa").float()
            embedding = self.model.text_model.embeddings.token_embedding
            text = self.model.text_model.config
            self.start, self.end, self.context = text.bos_token_id, text.eos_token_id, text.max_position_embeddings
        else:
            self.model = transformers.AutoModel.from_pretrained(folder).float()
            embedding = self.model.embeddings.word_embeddings
            self.start, self.end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
            self.context = CONTEXT
        self.model.eval().requires_grad_(False)
        self.table = embedding.weight
        self.passes = 0

    def of_embeddings(self, embeddings: Tensor) -> Tensor:
        """Unit features, (n, dim), of whole texts of one length as embeddings, start and end among them."""
        self.passes += len(embeddings) * (2 if embeddings.requires_grad and torch.is_grad_enabled() else 1)
        if not self.is_clip:
            states = self.model(inputs_embeds=embeddings).last_hidden_state
            return torch.nn.functional.normalize(states.mean(dim=1), dim=1)
        tower = self.model.text_model
        states, length = tower.embeddings(inputs_embeds=embeddings), embeddings.shape[1]
        mask = torch.full((length, length), -torch.inf).triu_(1).expand(len(states), 1, -1, -1)
        for layer in tower.encoder.layers:
            output = layer(states, attention_mask=mask)
            states = output if isinstance(output, Tensor) else output[0]
        last = tower.final_layer_norm(states)[:, -1]
        return torch.nn.functional.normalize(self.model.text_projection(last), dim=1)

    @torch.no_grad()
    def of_ids(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Unit features of texts as ids without special tokens; those of one length go together."""
        lengths: dict[int, list[int]] = {}
        for place, ids in enumerate(rows):
            lengths.setdefault(len(ids), []).append(place)
        found: list[Tensor | None] = [None] * len(rows)
        for length, places in lengths.items():
            for first in range(0, len(places), 256):
                some = places[first : first + 256]
                ids = torch.tensor([[self.start, *rows[i][: min(length, self.context - 2)], self.end] for i in some])
                for place, feature in zip(some, self.of_embeddings(self.table[ids]), strict=True):
                    found[place] = feature
        return torch.stack([feature for feature in found if feature is not None])

    def ids(self, text: str) -> list[int]:
        """Without special tokens."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit features of texts."""
        return self.of_ids([self.ids(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


class LikeCLIP(torch.nn.Module):
    """A tower behind the names and numbers of OpenAI's CLIP: special ids 49406 and 49407, a context of 77 places.

    Args:
        whole: the table of token embeddings is as long as CLIP's, for programs that look up the special ids in it.
    """

    def __init__(self, tower: Tower, whole: bool = False) -> None:
        super().__init__()
        self.tower = tower
        self.token_embedding = LikeEmbedding(tower, whole)
        self.special = {START: tower.start, END: tower.end}

    def forward_text_embedding(self, embeddings: Tensor, ids: Tensor, image_features: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of images and prompts, and their transpose, as PEZ's fork of open_clip gives them."""
        # What stands behind the end is padding.
        length = int(ids.argmax(dim=-1)[0]) + 1
        text = self.tower.of_embeddings(embeddings[:, :length])
        cosines = torch.nn.functional.normalize(image_features, dim=1) @ text.T
        return cosines, cosines.T

    def encode_text(self, ids: Tensor) -> Tensor:
        """Unit features of padded ids."""
        ends = ids.argmax(dim=-1).tolist()
        rows = [row[1:end] for row, end in zip(ids.tolist(), ends, strict=True)]
        return self.tower.of_ids([[self.special.get(one, one) for one in row] for row in rows])


class LikeEmbedding(torch.nn.Module):
    """The token table, which knows CLIP's special ids as the tower's; in the whole one, rows of no token are zero."""

    def __init__(self, tower: Tower, whole: bool) -> None:
        super().__init__()
        table = tower.table.detach()
        if whole:
            table = torch.zeros(END + 1, tower.table.shape[1])
            table[: len(tower.table)] = tower.table.detach()
            table[START], table[END] = tower.table[tower.start].detach(), tower.table[tower.end].detach()
        self.weight = torch.nn.Parameter(table, requires_grad=False)
        self.special = {START: tower.start, END: tower.end}

    def forward(self, ids: Tensor) -> Tensor:
        for given, own in self.special.items():
            ids = torch.where(ids == given, own, ids)
        return torch.nn.functional.embedding(ids, self.weight)


class LikeTokenizer:
    """The tokenizer's part in PEZ's and STEPS' loops."""

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self.encoder = range(len(tower.table))

    def encode(self, text: str) -> list[int]:
        return [START] * text.count("<start_of_text>")

    def decode(self, ids: Any) -> str:
        listed = [int(one) for one in np.asarray(ids).reshape(-1)]
        return self.tower.decode([one for one in listed if one < len(self.tower.table)])
