"""Tokenizers and image processors of transformers' own classes, made in memory under every release of it."""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

#: Before transformers 5, tokenizers were read from files alone, had a second class that is fast, and did other things.
OLDER = not hasattr(transformers, "TokenizersBackend")


def tokenizer_of(kind: str, vocab: Any, merges: Sequence[tuple[str, str]] | None = None, **options: Any) -> Any:
    """A tokenizer of the class `kind`.

    Args:
        vocab: ids by token, or (token, score) pairs of a unigram model.
        merges: of byte-pair encoding, in order.
    """
    if not OLDER:
        merged = {} if merges is None else {"merges": list(merges)}
        return getattr(transformers, kind)(vocab=vocab, **merged, **options)
    if kind in _OBJECTS:
        raw = _OBJECTS[kind](vocab, merges)
        own = kind.replace("Siglip2", "Gemma")  # whose tokenizer it was, until it had a class
        return getattr(transformers, f"{own}Fast")(tokenizer_object=raw, **options)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), vocab, merges)
        return getattr(transformers, f"{kind}Fast")(*files, **options)


def image_processor_of(kind: str, **options: Any) -> Any:
    """An image processor that resizes by Pillow."""
    return getattr(transformers, f"{kind}ImageProcessor" + ("" if OLDER else "Pil"))(**options)


def _files(folder: Path, vocab: dict[str, int], merges: Sequence[tuple[str, str]] | None) -> list[str]:
    if merges is None:  # word pieces
        file = folder / "vocab.txt"
        file.write_text("".join(f"{token}\n" for token in sorted(vocab, key=vocab.__getitem__)), encoding="utf-8")
        return [str(file)]
    tokens, pairs = folder / "vocab.json", folder / "merges.txt"
    tokens.write_text(json.dumps(vocab), encoding="utf-8")
    pairs.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    return [str(tokens), str(pairs)]


def _unigram(unknown: int, before: str, behind: str) -> Callable[[Any, Any], Tokenizer]:
    def build(vocab: Any, merges: Any) -> Tokenizer:
        raw = Tokenizer(models.Unigram(list(vocab), unk_id=unknown))
        raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        ids = {token: i for i, (token, _) in enumerate(vocab)}
        raw.post_processor = processors.TemplateProcessing(
            f"{before} $A {behind}".strip(), special_tokens=[(one, ids[one]) for one in (before, behind) if one]
        )
        return raw

    return build


def _gemma(lower: bool) -> Callable[[Any, Any], Tokenizer]:
    def build(vocab: Any, merges: Any) -> Tokenizer:
        raw = Tokenizer(models.BPE(vocab, list(merges), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        steps = [normalizers.Lowercase()] if lower else []
        raw.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
        raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        return raw

    return build


#: What was made from a file of SentencePiece, of which there is none here.
_OBJECTS: dict[str, Callable[[Any, Any], Tokenizer]] = {
    "T5Tokenizer": _unigram(2, "", "</s>"),
    "XLMRobertaTokenizer": _unigram(3, "<s>", "</s>"),
    "GemmaTokenizer": _gemma(lower=False),
    "Siglip2Tokenizer": _gemma(lower=True),
}
