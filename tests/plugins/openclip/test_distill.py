"""Long prompts and soft prompts with CLIP's real tokens: whatever is returned is read as it was scored."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

open_clip = pytest.importorskip("open_clip")

from hardprompts import DistilledPrompt, PromptDistiller, SoftPrompt, load_backend  # noqa: E402
from hardprompts.distillation.originals import windows_of, words_of  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

#: As people write them: names that no token holds, weights, brackets, HTML, YAML, other scripts, and far too long.
PROMPTS = (
    "portrait of a dieselpunk samurai, intricate, elegant, highly detailed, digital painting, artstation, concept art, "
    "smooth, sharp focus, illustration, art by artgerm and greg rutkowski and alphonse mucha",
    "(masterpiece:1.3), [blurry], {{best quality}} <lora:foo:0.8> --ar 16:9 --v 4, 1girl, solo; caf\u00e9 \u6771\u4eac \U0001f431",
    "---\nprompt: a <b>bold</b> house\nsteps: [50, 20]\n...",
    "don't stop: it's the rock'n'roll cat's 1980s neon-lit diner, wes anderson, 35mm, f/1.8, 8k!!!",
    ", ".join(f"a very detailed matte painting of castle number {n} by beksinski" for n in range(14)),
)


def random_clip(folder: Path, width: int, heads: int, layers: int, dtype: torch.dtype = torch.float32) -> Any:
    """A CLIP of random weights, with CLIP's tokenizer and context, a text tower of these sizes and hardly any other."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}")
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3 if width < 100 else 0.03)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    return load_backend(f"open_clip:local-dir:{folder}", device="cpu", dtype=dtype)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small one."""
    return random_clip(tmp_path_factory.mktemp("clip"), width=32, heads=2, layers=1)


def survives(prompt: DistilledPrompt, backend: Any, num_tokens: int, *templates: str) -> bool:
    vocabulary = backend.vocabulary
    for template in templates or ("{}",):
        before, after = (vocabulary.encode(part) for part in template.split("{}"))
        for candidate in prompt.candidates:
            if vocabulary.encode(template.replace("{}", candidate.text)) != [*before, *candidate.token_ids, *after]:
                return False
    return len(prompt.token_ids) <= num_tokens


@pytest.mark.parametrize("prompt", PROMPTS, ids=range(len(PROMPTS)))
def test_what_a_prompt_is_distilled_to_survives_the_round_trip(clip: Any, prompt: str) -> None:
    options: dict[str, Any] = {"progress": False, "seed": 0, "restarts": 3, "max_steps": 4}
    distiller = PromptDistiller(clip)
    found = distiller.distill(prompt, num_tokens=6, templates=["{}", "a painting of {}"], **options)
    assert survives(found, clip, 6, "{}", "a painting of {}")
    chosen = PromptDistiller(clip, "selection").distill(prompt, num_tokens=6, **options)
    assert survives(chosen, clip, 6)
    assert found.faithfulness is not None and chosen.faithfulness is not None
    soft = torch.randn(2, 32, generator=torch.Generator().manual_seed(0)) * 3
    assert survives(distiller.distill(SoftPrompt({"text_encoder": soft}), num_tokens=4, **options), clip, 4)


def test_a_prompt_over_77_tokens_loses_no_token_to_its_windows(clip: Any) -> None:
    vocabulary, text = clip.vocabulary, PROMPTS[-1]
    ids = vocabulary.encode(text)
    pieces = windows_of(text, 75, vocabulary)
    assert len(ids) > 150 and [i for piece in pieces for i in piece] == ids
    assert all(vocabulary.decode(piece).endswith(",") for piece in pieces[:-1])
    assert [i for word in words_of(text, vocabulary) for i in word] == ids


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", "ViT-L"])
def test_real_prompts_of_people_survive(size: str, clip: Any, tmp_path: Path) -> None:
    folder = os.environ.get("HARDPROMPTS_SHARED_DATA")
    if not folder:
        pytest.skip("HARDPROMPTS_SHARED_DATA names no folder with prompts/krea_open_prompts_1k.csv")
    with open(Path(folder) / "prompts" / "krea_open_prompts_1k.csv", encoding="utf-8", newline="") as file:
        prompts = [row["prompt"] for row in csv.DictReader(file) if row["prompt"].strip()]
    assert len(prompts) > 900
    backend, limit = (clip, None) if size == "small" else (random_clip(tmp_path, 768, 12, 12, torch.bfloat16), 12)
    distiller, room = PromptDistiller(backend), backend.text_encoder.max_tokens
    quick: dict[str, Any] = {"progress": False, "seed": 0, "restarts": 1, "max_steps": 1, "max_evaluations": limit}
    for prompt in prompts:
        num_tokens = min(room, max(1, round(0.3 * len(backend.vocabulary.encode(prompt)))))
        found = distiller.distill(prompt, num_tokens=num_tokens, held_out=["a picture of {}"], **quick)
        assert survives(found, backend, num_tokens), prompt
