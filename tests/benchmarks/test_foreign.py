"""The adapters of foreign programs, around programs of a few lines that call what the real ones call."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent

pytestmark = pytest.mark.skipif(
    int(importlib.metadata.version("transformers").partition(".")[0]) < 5,
    reason="the adapters run in an environment of their own, and open models as transformers 5 does",
)

PEZ = """
import torch
def optimize_prompt_loop(model, tokenizer, token_embedding, target, args, device):
    ids = torch.zeros(args.prompt_bs, 77, dtype=torch.long)
    ids[:, 0], ids[:, 1 : args.prompt_len + 1], ids[:, args.prompt_len + 1] = 49406, 300, 49407
    print("what the loop prints is no part of the row")
    for step in range(args.iter):
        embeddings = token_embedding(ids).detach().requires_grad_()
        cosines, _ = model.forward_text_embedding(embeddings, ids, target)
        assert cosines.shape == (1, 1)
        cosines.sum().backward()
        # Nothing behind the end, which is padding, is read.
        assert embeddings.grad[:, 1 : args.prompt_len + 2].abs().sum() > 0
        assert embeddings.grad[:, args.prompt_len + 2 :].abs().sum() == 0
        with torch.no_grad():
            model.forward_text_embedding(embeddings, ids, target)
    assert tokenizer.encode("<start_of_text>") == [49406] and len(tokenizer.encoder) == 3782
    return tokenizer.decode(torch.randint(0, len(tokenizer.encoder), (args.prompt_len,)))
"""

STEPS = """
import torch
seqprotes = None
class STEPSPrompt:
    def __init__(self, model, tokenizer, token_embedding, args, device):
        self.model, self.tokenizer, self.table, self.args = model, tokenizer, token_embedding, args
    def run(self, target):
        assert seqprotes() == "the function, by the name of its module"
        # An id of CLIP's vocabulary, which is longer than this one.
        drawn = torch.randint(0, 40408, (self.args.sample_bs, self.args.prompt_len))
        assert drawn.max() < 3782
        ids = torch.zeros(len(drawn), 77, dtype=torch.long)
        ids[:, 0], ids[:, 1 : self.args.prompt_len + 1], ids[:, self.args.prompt_len + 1] = 49406, drawn, 49407
        assert torch.equal(self.table(ids)[0, 0], self.table.weight[49406])
        for _ in range(self.args.iter):
            scores = self.model.encode_text(ids) @ target.T
        return self.tokenizer.decode(drawn[scores.argmax()]), float(scores.max())
"""

VGD = """
import torch
class VGD(torch.nn.Module):
    def reset(self):
        self.words = ["fox", "red", "watermelon on gray"]
    def generate_prompt(self):
        assert self.llm(self.llm_prompt).logits.shape[-1] == self.llm.vocab_size
        rows = {name: torch.tensor(rows) for name, rows in self.clip_tokenizer(self.words, padding=True).items()}
        features = self.clip.get_text_features(rows["input_ids"], rows["attention_mask"])
        assert self.clip_beam_size * self.beam_expand_factor * self.max_length <= 500
        print("what it prints is no part of the row")
        return {"text": [self.words[(features @ self.all_target_features.T).argmax()]]}
"""

INTERROGATOR = """
import types, torch
open_clip = types.SimpleNamespace()
class Config(types.SimpleNamespace):
    pass
class Table:
    def __init__(self, labels, interrogator):
        self.labels, self.interrogator = labels, interrogator
    def rank(self, target, count):
        features = self.interrogator.features(self.labels)
        return [self.labels[i] for i in (features @ target.T)[:, 0].topk(min(count, len(self.labels))).indices]
class Interrogator:
    def __init__(self, config):
        assert config.caption_model_name is None and config.clip_model_name.startswith("tower-3782")
        self.tokenize, self.model = open_clip.get_tokenizer("any"), config.clip_model
        for name in ("artists", "flavors", "mediums", "movements", "trendings"):
            setattr(self, name, Table([f"{name} fox", "gray watermelon"], self))
    def features(self, texts):
        return self.model.encode_text(self.tokenize(texts))
    def chain(self, target, phrases, min_count, max_count):
        assert 1 == min_count < max_count == 7
        return ", ".join([phrases[0], *sorted(phrases[1:3])])
def _merge_tables(tables, interrogator):
    return Table([label for table in tables for label in table.labels], interrogator)
"""


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two targets of the emoji world."""
    folder: Path = tmp_path_factory.mktemp("targets")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import neutral_suites

        neutral_suites.write_targets({"emoji": neutral_suites.emoji(2)}, folder, 500)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return folder


def adapted(targets: Path, row: Path, name: str, *options: str, packages: Path | None = None) -> dict[str, Any]:
    """The row that an adapter writes."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if packages is not None:
        variables["PYTHONPATH"] = str(packages)
    program = str(ROOT / "benchmarks" / "foreign" / f"{name}.py")
    given = [str(targets), str(row), "--suite", "emoji", "--passes", "500", "--seed", "3", *options]
    ended = subprocess.run(  # what it says on failing is shown
        [sys.executable, program, *given], check=False, capture_output=True, text=True, env=variables
    )
    assert ended.returncode == 0, ended.stderr
    assert "no part of the row" not in ended.stdout
    found: dict[str, Any] = json.loads(row.read_text(encoding="utf-8"))
    return found


def check(row: dict[str, Any], name: str, passes: int) -> None:
    """A row is one that the benchmark reads."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import neutral_rows
        import neutral_suites
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert not list(neutral_rows.problems_of(row, [neutral_suites.emoji(2)]))
    assert row["name"] == name and row["budget"] == "500 passes" and row["differences"]
    assert row["passes"] == {"emoji-0": passes, "emoji-1": passes}
    assert all(text.strip() for text in row["prompts"].values())


def written(folder: Path, files: dict[str, str]) -> Path:
    """A checkout with files, whose commit is told by a file."""
    for name, text in {**files, "COMMIT": "0123456789abcdef\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_pez_counts_steps_forward_and_back_and_keeps_to_its_seed(targets: Path, tmp_path: Path) -> None:
    checkout = written(tmp_path / "pez", {"optim_utils.py": PEZ})
    row = adapted(targets, tmp_path / "row.json", "pez", "--checkout", str(checkout))
    check(row, "PEZ, reference", 3 * 166)
    assert row["program"] == "hard-prompts-made-easy 0123456"
    again = adapted(targets, tmp_path / "again.json", "pez", "--checkout", str(checkout), "--steps", "5")
    assert again["prompts"] == row["prompts"] and again["passes"] == {"emoji-0": 15, "emoji-1": 15}
    assert row["prompts"]["emoji-0"] != row["prompts"]["emoji-1"]


def test_steps_draws_from_the_vocabulary_that_there_is(targets: Path, tmp_path: Path) -> None:
    seqprotes = "def seqprotes():\n    return 'the function, by the name of its module'\n"
    files = {"src/STEPSPrompt.py": STEPS, "src/seqprotes/__init__.py": "", "src/seqprotes/seqprotes.py": seqprotes}
    checkout = written(tmp_path / "steps", files)
    row = adapted(targets, tmp_path / "row.json", "steps", "--checkout", str(checkout))
    check(row, "STEPS", 2 * 200)


def test_vgd_begins_with_the_nearest_word_which_is_kept(targets: Path, tmp_path: Path) -> None:
    checkout = written(tmp_path / "vgd", {"vgd/wrapper.py": VGD})
    given = ("--checkout", str(checkout), "--cache", str(tmp_path / "cache"))
    row = adapted(targets, tmp_path / "row.json", "vgd", *given)
    check(row, "VGD", 3)
    assert row["prompts"]["emoji-0"].endswith("watermelon on gray")
    # The words of the vocabulary are encoded once, and what is kept gives the same.
    (kept,) = (tmp_path / "cache").iterdir()
    features = torch.load(kept, weights_only=True)
    assert features.norm(dim=1).allclose(torch.ones(len(features)))
    assert adapted(targets, tmp_path / "again.json", "vgd", *given)["prompts"] == row["prompts"]


def test_the_interrogator_runs_without_captions(targets: Path, tmp_path: Path) -> None:
    files = {
        "clip_interrogator/__init__.py": "from .clip_interrogator import Config, Interrogator\n",
        "clip_interrogator/clip_interrogator.py": INTERROGATOR,
        "clip_interrogator-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: clip-interrogator\nVersion: 9.9\n",
    }
    packages = written(tmp_path / "packages", files)
    row = adapted(targets, tmp_path / "row.json", "interrogator", packages=packages)
    check(row, "CLIP Interrogator", 10)
    assert row["program"] == "clip-interrogator 9.9" and row["prompts"]["emoji-0"].startswith("gray watermelon")
