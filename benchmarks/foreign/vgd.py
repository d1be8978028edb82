"""VGD by its authors' code: https://github.com/DonghoonKim-1938/VGD, a checkout in --checkout.

Their `VGD.generate_prompt` runs with their weights of both models (1.0 and 1.5) over the project's small language model
in place of Llama, and with as many beams as the passes allow. Needs sentence-transformers.
"""

import importlib
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch
import transformers
from protocol import Tower, arguments, commit, write
from torch import Tensor


class ClipOf(torch.nn.Module):
    """The tower by the names of transformers' CLIPModel."""

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower
        self.logit_scale = torch.tensor(100.0).log()

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(dim=1).tolist()
        return self.tower.of_ids([row[:length] for row, length in zip(input_ids.tolist(), lengths, strict=True)])


def tokenize(tower: Tower, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
    """Padded ids without special tokens, which `ClipOf` adds."""
    rows = [tower.ids(text)[: tower.context - 2] for text in texts]
    longest = max(1, *map(len, rows))
    return {
        "input_ids": [row + [0] * (longest - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (longest - len(row)) for row in rows],
    }


def nearest_words(tower: Tower, targets: Tensor, cache: str) -> list[str]:
    """For each target the nearest of the vocabulary's words, with which their prompt ends; kept in a folder."""
    words = sorted({piece.split("<", 1)[0] for piece in tower.tokenizer.get_vocab()})
    words = [word for word in words if word.isalpha() and word.isascii()]
    kept = Path(cache) / f"vgd-{len(tower.table)}.pt" if cache else None
    features = torch.load(kept, weights_only=True) if kept and kept.exists() else tower.of_texts(words)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(features, kept)
    return [words[place] for place in (targets @ features.T).argmax(dim=1).tolist()]


def main() -> None:
    given, task = arguments(__doc__, checkout="", cache="", prefix="a picture of a")
    checkout = Path(given.checkout)
    # Imported by their module, and not used by what runs here.
    for name in ("open_clip", "diffusers", "bluestar", "bluestar.utils", "bluestar.utils.chat_template",
                 "bluestar.utils.random_utils"):  # fmt: skip
        sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout / "vgd"))
    code = importlib.import_module("wrapper")
    language = transformers.AutoModelForCausalLM.from_pretrained(task.language_model, dtype=torch.float32).eval()
    language.vocab_size = language.config.vocab_size
    words = transformers.AutoTokenizer.from_pretrained(task.language_model)
    # Beams of CLIP times beams of the language model for each, as theirs 10 times 10, at each of the places.
    expand = 10
    length = max(1, task.tokens - 1)  # the word that is kept counts too
    beams = max(1, task.passes // (expand * length))

    begun = nearest_words(task.tower, task.features, given.cache)
    begins = {tuple(target.tolist()): word for target, word in zip(task.features, begun, strict=True)}

    def prompt(target: Tensor) -> str:
        prefix = f"{given.prefix} {begins[tuple(target[0].tolist())]}"
        search = code.VGD.__new__(code.VGD)
        torch.nn.Module.__init__(search)
        search.clip, search.clip_tokenizer = ClipOf(task.tower), lambda texts, **more: tokenize(task.tower, texts)
        search.llm, search.llm_tokenizer = language, words
        search.llm_prompt = torch.tensor([words.encode(prefix, add_special_tokens=False)])
        search.all_target_features = target
        search.llm_alpha, search.clip_alpha = 1.0, 1.5
        search.beam_expand_factor, search.clip_beam_size, search.llm_beam_size = expand, beams, expand * beams
        search.beam_offset = torch.zeros(1, dtype=torch.long)
        search.length_cutoff, search.max_length, search.min_length = False, length, length
        search.reset()
        with redirect_stdout(io.StringIO()), torch.no_grad():
            found = str(search.generate_prompt()["text"][0]).strip()
        return f"{begins[tuple(target[0].tolist())]} {found}"

    differences = [
        f"the project's language model of 2.8 million parameters, begun with {given.prefix!r} and the nearest word of "
        "the vocabulary, in place of Llama with a chat prompt that ends with that word; the word is kept in the prompt",
        f"{beams} times {expand} beams in place of 10 times 10, {length} tokens in place of 32",
        "another model than CLIP ViT-H-14, with a scale of 100 on its cosines",
    ]
    write(given.row, task.row("VGD", f"VGD {commit(checkout)}", differences, prompt))


if __name__ == "__main__":
    main()
