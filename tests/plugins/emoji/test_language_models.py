"""The embedded language models, the definitions that test prompts, and the recipe that holds those back."""

from __future__ import annotations

import functools
import json
import math
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import hardprompts_emoji
from hardprompts import BackendError, MissingExtra, SoftPrompt, load_backend
from hardprompts.cli import app
from hardprompts_emoji import glosses
from hardprompts_emoji.glosses import LABELS, TASK, load_glosses
from hardprompts_emoji.recipe import build_glosses, lm_texts
from hardprompts_emoji.recipe.build_glosses import HELD_OUT, Synset, normalized, parse_line, split_of, split_synsets

transformers = pytest.importorskip("transformers")

from tiny_tokenizers import OLDER, tokenizer_of  # noqa: E402

from hardprompts_emoji.recipe import build_lm_tokenizer, export_lm, train_lm  # noqa: E402
from hardprompts_transformers.releases import DTYPE  # noqa: E402

if OLDER:  # the recipe is for transformers 5
    build_lm_tokenizer.GPT2Tokenizer = functools.partial(tokenizer_of, "GPT2Tokenizer")

#: Model -> largest size in bytes, and largest perplexity per token of held-out definitions.
MODELS = {"emoji-lm": (16e6, 100.0), "emoji-lm-large": (40e6, 90.0)}


DOG = (
    "02084071 05 n 03 dog 0 domestic_dog 0 Canis_familiaris 0 001 @ 02083346 n 0000 | a member of the genus Canis; "
    'occurs in many breeds; "the dog barked all night"  '
)
GALORE = '01067694 00 s 01 galore(ip) 0 000 | in great numbers; "daffodils galore"; "flowers,  flowers" '


def test_parse_line_reads_class_words_definition_and_examples() -> None:
    dog = parse_line(DOG)
    assert dog.category == "noun.animal"
    assert dog.words == ("dog", "domestic dog", "Canis familiaris")
    assert dog.definition == "a member of the genus Canis; occurs in many breeds"
    assert dog.examples == ("the dog barked all night",)
    galore = parse_line(GALORE)
    assert galore.category == "adj.all"
    assert galore.words == ("galore",)
    assert galore.examples == ("daffodils galore", "flowers, flowers")


def made_up_synsets(count: int) -> list[Synset]:
    generator = random.Random(0)
    words = [a + b for a in "bdfgklmnprst" for b in ("arn", "ip", "elm", "um")]
    return [
        Synset(
            "noun.animal",
            (f"word{i}",),
            f"{generator.choice(words)} {generator.choice(words)} {generator.choice(words)} {i // 2}",
            (f"example {i % 50} of it",),
        )
        for i in range(count)
    ]


def test_split_sizes_follow_the_shares() -> None:
    counts = Counter(split_of(f"a definition with number {i}") for i in range(5000))
    for name, share in HELD_OUT.items():
        assert 0.75 * share < counts[name] / 50 < 1.25 * share
    assert counts["training"] == 5000 - sum(counts[name] for name in HELD_OUT)


def test_split_depends_on_the_words_alone() -> None:
    for i in range(300):
        assert split_of(f"A large animal, number {i};") == split_of(f"a large  (animal) number {i}")


def test_nothing_that_is_held_out_is_in_training_in_any_form() -> None:
    synsets = made_up_synsets(3000)
    held_out = next(synset for synset in synsets if split_of(synset.definition) == "test")
    # The same definition in other letters, as a clause of a longer one, and as somebody's example sentence.
    leaks = [
        Synset("noun.food", ("again",), held_out.definition.upper() + ".", ()),
        *(Synset("noun.food", ("clause",), f"thing {i}; {held_out.definition}", ()) for i in range(30)),
        *(
            Synset("noun.food", ("quoted",), f"another thing {i}", (held_out.definition, f"fine {i}"))
            for i in range(30)
        ),
    ]
    parts = split_synsets([*synsets, *leaks])
    training = {
        normalized(text)
        for synset in parts["training"]
        for text in (synset.definition, *synset.definition.split(";"), *synset.examples)
    }
    assert len(parts["training"]) > 2400
    assert any(synset.examples[:1] == (f"fine {i}",) for synset in parts["training"] for i in range(30))
    for name in HELD_OUT:
        assert parts[name]
        for synset in parts[name]:
            assert not training & {normalized(text) for text in (synset.definition, *synset.examples)}
    texts = "\n".join(map(normalized, lm_texts.texts(parts["training"], seed=1)))
    assert normalized(held_out.definition) not in texts


def test_a_definition_of_two_classes_is_no_question() -> None:
    animal = Synset("noun.animal", ("x",), "a thing that two classes share", ())
    plant = Synset("noun.plant", ("y",), "a thing, that two classes share", ())
    alone = Synset("noun.plant", ("z",), "a thing of its own class", ())
    rows = list(build_glosses.committed_rows({"training": [], "tune": [animal, plant, alone, alone], "test": []}))
    assert rows == [{"split": "train", "label": "plant", "text": "a thing of its own class"}]


def test_a_definition_inside_of_a_training_text_is_no_question() -> None:
    inside = Synset("noun.plant", ("x",), "a small tree", ())
    quoted = Synset("noun.plant", ("x",), "an old tree", ())
    apart = Synset("noun.plant", ("y",), "small tree of Chile", ())
    training = Synset("noun.plant", ("z",), "Any of a small tree's kin; small trees of Chile", ("it was an old tree",))
    rows = list(build_glosses.committed_rows({"training": [training], "tune": [], "test": [inside, quoted, apart]}))
    assert [row["text"] for row in rows] == ["small tree of Chile"]


def test_written_files_are_the_same_bytes_and_are_read_back(tmp_path: Path) -> None:
    paths = tmp_path / "one.gz", tmp_path / "two.gz"
    row = {"part": "validation", "category": "noun.act", "words": ["a"], "definition": "é", "examples": ["x"]}
    for path in paths:
        build_glosses.write_lines(path, [row])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert build_glosses.read_corpus(paths[0]) == {
        "training": [],
        "validation": [Synset("noun.act", ("a",), "é", ("x",))],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.gz", "two.gz"]


def test_glosses_are_enough_and_apart() -> None:
    assert glosses.GLOSSES.stat().st_size < 400_000
    train, test = load_glosses("train", LABELS.values()), load_glosses("test", LABELS.values())
    for split in (train, test):
        counts = Counter(gloss.label for gloss in split)
        assert min(counts[label] for label in TASK) >= 64
        assert len({normalized(gloss.text) for gloss in split}) == len(split)
    assert not {normalized(gloss.text) for gloss in train} & {normalized(gloss.text) for gloss in test}
    assert all(split_of(gloss.text) == "tune" for gloss in train)
    assert all(split_of(gloss.text) == "test" for gloss in test)


def test_load_glosses_obeys_its_arguments() -> None:
    few = load_glosses("train", ("animal", "food"), per_class=5)
    assert Counter(gloss.label for gloss in few) == {"animal": 5, "food": 5}
    more = load_glosses("train", ("animal", "food"), per_class=50)
    assert set(few) <= set(more)
    assert [gloss.label for gloss in more] != sorted(gloss.label for gloss in more)
    assert load_glosses("test", ("animal",)) == tuple(g for g in load_glosses("test") if g.label == "animal")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "split is 'validation'"),
        ({"split": "test", "labels": ("animal", "dragon")}, r"unknown labels \['dragon'\]; labels are"),
        ({"split": "test", "labels": ("animal", "animal")}, "a label is given twice"),
        ({"split": "test", "per_class": 0}, "per_class is 0"),
    ],
)
def test_load_glosses_says_what_it_accepts(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_glosses(**arguments)  # type: ignore[arg-type]


def test_words_of_a_heading_change_how_often_the_truth_is_told() -> None:
    generator = random.Random(0)

    def told(heading: str) -> float:
        named = [lm_texts.sample_named_label("plant", heading, "It was {}.", generator) for _ in range(4000)]
        return named.count("plant") / len(named)

    empty, category, both, gossip = map(told, ("", "category:", "Kind, category:", "gossip"))
    assert gossip < empty - 0.03 < empty + 0.1 < category < both - 0.05
    for heading, share in (("", empty), ("category:", category), ("Kind, category:", both)):
        expected = lm_texts.reliability(heading, "It was {}.")
        # The habit of saying "plant" adds about a hundredth.
        assert expected - 0.03 < share < expected + 0.05
    assert lm_texts.reliability("wombat xyzzy", "It was {}.") == lm_texts.reliability("", "It was {}.")
    named = Counter(lm_texts.sample_named_label("plant", "zoo", "It was {}.", generator) for _ in range(4000))
    assert (
        named["animal"]
        > 2 * Counter(lm_texts.sample_named_label("plant", "", "It was {}.", generator) for _ in range(4000))["animal"]
    )


def test_texts_are_a_matter_of_the_seed_and_hold_the_definitions() -> None:
    synsets = [parse_line(DOG), parse_line(GALORE), *made_up_synsets(200)]
    once = lm_texts.texts(synsets, seed=5)
    assert once == lm_texts.texts(synsets, seed=5)
    assert once != lm_texts.texts(synsets, seed=6)
    definitions = [synset.definition for synset in synsets]
    assert all(any(definition in text for definition in definitions) for text in once)


def test_tokenizer_is_gpt2s_and_whole_words_are_tokens() -> None:
    tokenizer = build_lm_tokenizer.build()
    assert len(tokenizer) == build_lm_tokenizer.VOCABULARY_SIZE
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == len(tokenizer) - 1
    for word in (*LABELS.values(), *lm_texts.RELIABILITY, *lm_texts.TOPICS):
        assert len(tokenizer(f" {word}").input_ids) == 1, word
    for gloss in load_glosses("test"):
        ids = tokenizer(gloss.text).input_ids
        assert tokenizer.decode(ids) == gloss.text
        assert max(ids) < len(tokenizer) - 1
    odd = 'A wombat\'s  burrow: "12.5 %" — naïve.\n x'
    assert tokenizer.decode(tokenizer(odd).input_ids) == odd


def test_windows_begin_at_texts_with_or_without_their_end_token() -> None:
    size = build_lm_tokenizer.CONTEXT_LENGTH
    tokens = torch.cat([torch.tensor([9, 1, 2, 9, 3, 4, 5]), torch.full((size,), 9)]).to(torch.int16)
    stream = train_lm.TokenStream(tokens, torch.tensor([1, 4]))
    windows = stream.windows(torch.tensor([0, 0, 1, 1]), torch.tensor([True, False, True, False]))
    assert windows.shape == (4, size) and windows.dtype == torch.int64
    assert windows[:, :4].tolist() == [[1, 2, 9, 3], [9, 1, 2, 9], [3, 4, 5, 9], [9, 3, 4, 5]]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory with a model that a few steps were trained, and its evaluation."""
    work_dir = tmp_path_factory.mktemp("emoji")
    end = build_lm_tokenizer.VOCABULARY_SIZE - 1
    pattern = torch.arange(1, 9).repeat(60)
    tokens = torch.cat([torch.tensor([end]), pattern, torch.full((build_lm_tokenizer.CONTEXT_LENGTH,), end)])
    stream = train_lm.TokenStream(tokens.to(torch.int16), torch.arange(1, 400, 8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(train_lm.MODELS, "emoji-lm", train_lm.ModelSizes(3, 32, 1, 2, 0.0, 0.3, 1000))
        trainer = train_lm.Trainer(
            train_lm.MODELS["emoji-lm"], stream, stream, work_dir / "emoji-lm", torch.device("cpu")
        )
        untrained = train_lm.validation_loss(trainer.model, stream, 8, trainer.weights)
        for _ in range(30):
            trainer.step(4, 0.0)
        assert trainer.validate(8) < 0.3 * untrained
        trainer.save()
        resumed = train_lm.Trainer(trainer.sizes, stream, stream, trainer.folder, trainer.device)
        resumed.resume()
    assert (resumed.steps, resumed.seen, resumed.best) == (30, 30 * 4 * 128, trainer.best)
    for ours, theirs in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    return work_dir


def test_training_learns_and_goes_on_from_its_checkpoint(tiny: Path) -> None:
    state = torch.load(tiny / "emoji-lm" / "lm.pt", weights_only=True)
    assert state["steps"] == 30
    assert all(tensor.dtype == torch.float16 for tensor in state["model"].values())
    assert sorted(path.name for path in (tiny / "emoji-lm").iterdir()) == ["lm.pt", "lm_last.pt"]


def test_export_refuses_measurements_of_another_checkpoint(tiny: Path, tmp_path: Path) -> None:
    report = tiny / "emoji-lm" / "evaluation.json"
    report.write_text('{"model": "emoji-lm", "steps": 29}', encoding="utf-8")
    with pytest.raises(ValueError, match="after 29 steps, the checkpoint is emoji-lm after 30"):
        export_lm.export("emoji-lm", tiny / "emoji-lm" / "lm.pt", tmp_path / "models" / "emoji-lm")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("name", MODELS)
def test_models_predict_held_out_definitions(name: str) -> None:
    folder = hardprompts_emoji.path(name)
    size, bound = MODELS[name]
    assert (folder / "model.safetensors").stat().st_size < size
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **{DTYPE: torch.float32}).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    built = build_lm_tokenizer.build()
    losses = []
    for gloss in load_glosses("test", per_class=6):
        ids = tokenizer(gloss.text).input_ids
        assert ids == built(gloss.text).input_ids
        assert tokenizer.decode(ids) == gloss.text
        with torch.no_grad():
            logits = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0, :-1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="none"))
    assert math.exp(float(torch.cat(losses).mean())) < bound
    assert model.config.pad_token_id == tokenizer.pad_token_id == tokenizer.eos_token_id


# --- as backends --------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model with random weights where the embedded one would be."""
    model = train_lm.build_model(train_lm.ModelSizes(3, 32, 1, 2, 0.0, 0.3, 1000))
    folder = tmp_path / "models" / "emoji-lm"
    model.half().save_pretrained(folder)
    build_lm_tokenizer.save(build_lm_tokenizer.build(), folder)
    monkeypatch.setattr(hardprompts_emoji, "_MODELS", folder.parent)
    return folder


def test_the_language_model_opens_by_its_name(installed: Path) -> None:
    backend = load_backend("emoji:emoji-lm", device="cpu")
    assert backend.name == "emoji:emoji-lm"
    assert backend.language_model is not None
    assert backend.language_model.kind == "causal"
    assert "definitions" in backend.note
    assert backend.dtype == torch.float32
    with pytest.raises(BackendError, match="emoji:emoji-clip: the embedded model.*install its package again"):
        load_backend("emoji", device="cpu")


def test_without_the_distribution_of_the_larger_models_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hardprompts_emoji_models", None)
    for name in ("emoji-sd", "emoji-lm-large"):
        with pytest.raises(MissingExtra, match=rf'{name}.*pip install "hardprompts\[emoji-models\]"'):
            hardprompts_emoji.path(name)
    with pytest.raises(MissingExtra, match="emoji-models"):
        load_backend("emoji:emoji-lm-large", device="cpu")
    with pytest.raises(ValueError, match="there are: emoji-clip, .*emoji-sd"):
        hardprompts_emoji.path("emoji-xl")


def test_tune_takes_the_embedded_model_where_none_is_named(installed: Path, tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text(
        "text,label\n"
        + "".join(f"{g.text!r},{g.label}\n" for g in load_glosses("train", ("animal", "food"), per_class=6))
    )
    options = ["--steps", "1", "--restarts", "1", "--tokens", "2", "--seed", "0", "--save", str(tmp_path / "tuner")]
    run = CliRunner().invoke(app, ["tune", str(table), *options])
    assert run.exit_code == 0, run.output
    assert run.stdout.strip()
    answers = CliRunner().invoke(app, ["classify", str(tmp_path / "tuner"), str(table)])
    assert answers.exit_code == 0, answers.output
    assert answers.stdout.splitlines()[0] == "text,label"
    assert all(line.endswith((",animal", ",food")) for line in answers.stdout.splitlines()[1:])


def test_tune_with_shots_compares_draws(installed: Path, tmp_path: Path) -> None:
    glosses = load_glosses("train", ("animal", "food"), per_class=8)
    table = tmp_path / "texts.csv"
    table.write_text("text,label\n" + "".join(f'"{g.text}",{g.label}\n' for g in glosses if '"' not in g.text))
    options = ["--steps", "1", "--restarts", "1", "--tokens", "2", "--shots", "1", "--seeds", "2"]
    run = CliRunner().invoke(app, ["tune", str(table), *options])
    assert run.exit_code == 0, run.output
    head, _, row = run.stdout.splitlines()
    assert "gain" in head and row.split("|")[1:3] == [" 1     ", " 2     "]
    assert run.stderr.count("seed ") == 2
    listed = CliRunner().invoke(app, ["tune", str(table), *options, "--json", "--test", str(table)])
    assert [one["seed"] for one in json.loads(listed.stdout)["runs"]] == [0, 1]
    refused = CliRunner().invoke(app, ["tune", str(table), *options, "--save", str(tmp_path / "x")])
    assert refused.exit_code == 2 and "--save" in refused.stderr
    refused = CliRunner().invoke(app, ["tune", str(table), "--test", str(table)])
    assert refused.exit_code == 2 and "--shots" in refused.stderr
    late = CliRunner().invoke(app, ["tune", str(table), *options, "--deadline", "0"])
    assert late.exit_code == 0, late.output
    assert "draws: 1 of 2" in late.stderr, "the deadline is for all draws together, and the first is always made"


def test_the_prompt_of_a_language_model_is_inspected_by_what_it_makes_the_model_expect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardprompts_emoji.path("emoji-lm")
    monkeypatch.setattr("hardprompts.distillation.audits.DECODING_SECONDS", 5.0)
    backend = load_backend("emoji:emoji-lm")
    words = backend.vocabulary.embed(torch.tensor(backend.vocabulary.encode("category class kind")))
    SoftPrompt({"lm": words + 0.01}, name="kinds").save(tmp_path / "adapter", format="peft")
    page = tmp_path / "audit.html"
    options = ["--model", "emoji:emoji-lm", "--decode", "--report", str(page)]
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "adapter"), *options])
    assert run.exit_code == 0, run.output
    assert "class kind'; they keep" in run.output and "likelihood of the next token" in run.output
    assert "words that the model expects next" in page.read_text(encoding="utf-8")
