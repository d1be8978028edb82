"""Nothing of this machine is shared: every door that writes something, and what it writes in the folder of a user."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Run
from hub_samples import PROMPT, fitted_tuner, soft
from loopback_hub import LoopbackHub

from hardprompts import (
    Backend,
    BackendError,
    ClassifierPromptTuner,
    DistilledPrompt,
    HardPrompt,
    PromptDistiller,
    PromptInverter,
    SoftPrompt,
    hookimpl,
    load_backend,
    plugins,
)
from hardprompts.applications import concatenate
from hardprompts.batch import invert_many
from hardprompts.hub import machine
from hardprompts.hub.machine import MachineNotice, distinct_label, model_label, shown_model, without_machine
from hardprompts.hub.places import PLACES_FILE
from hardprompts.sharing import push
from hardprompts.testing import ToyEncoder, toy_backend, toy_language_model

#: Stand for the name of a user, and for that of the machine.
USER, HOST = "secretuser", "secrethost9"
QUICK: dict[str, Any] = {"num_tokens": 2, "max_steps": 2, "restarts": 2, "seed": 0, "progress": False}
FLAGS = ("--tokens", "2", "--steps", "2", "--restarts", "2", "--seed", "0")


class Here:
    """Models in folders, as plugins open them: the toys, called by the place that they came from."""

    def __init__(self) -> None:
        def opened(name: str, *, device: torch.device, dtype: torch.dtype) -> Backend:
            if name.endswith("lm"):
                return dataclasses.replace(toy_language_model(), name=f"here:{name}")
            return dataclasses.replace(toy_backend(), name=f"here:{name}")

        self.backends = hookimpl(lambda: {"here": opened})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a user, with pictures, a bank, tables and models in it."""
    place = tmp_path / "homes" / USER / "my work"
    (place / "pictures").mkdir(parents=True)
    (place / "models" / "m").mkdir(parents=True)
    for name, text in (("a", "red house"), ("b", "old boat")):
        ToyEncoder().picture(text).save(place / "pictures" / f"{name}.png")
    (place / "pictures" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (place / "bank.txt").write_text("red house\nold boat\nblack cat\n")
    rows = [f"{word} house in the {clue},{label}" for word in ("red", "old", "green", "blue") for clue, label in (("fire", "sun"), ("night", "moon"))]  # fmt: skip
    (place / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    monkeypatch.setattr(machine.socket, "gethostname", lambda: HOST)
    machine._host.cache_clear()
    machine._own_names.cache_clear()
    plugins.register(Here(), "here")
    yield place
    plugins.unregister("here")
    machine._host.cache_clear()
    machine._own_names.cache_clear()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def model(home: Path, name: str = "m") -> str:
    return f"here:{home / 'models' / name}"


def assert_nothing_told(place: Path, *further: "str | bytes") -> None:
    """Looks through every file and its name, and through texts, for the user and the machine."""
    found = [path for path in place.rglob("*") if path.is_file() and path.name != PLACES_FILE]
    contents = [*((path.relative_to(place).as_posix(), path.read_bytes()) for path in found)]
    contents += [("", one if isinstance(one, bytes) else one.encode()) for one in further]
    assert contents, "nothing was written"
    for name, content in contents:
        for secret in (USER, HOST):
            spellings = (secret.encode(), secret.encode("utf-16-le"), secret.encode("utf-16-be"))
            assert secret not in name and not any(one in content.lower() for one in spellings), (name, content[:2000])


def noticed(*words: "str | Path") -> Run:
    with pytest.warns(MachineNotice, match="model is now 'here:…/m'"):
        return Run(*words)


def heard(said: "pytest.WarningsRecorder") -> str:
    return "\n".join(str(one.message) for one in said.list if one.category is MachineNotice)


# --- what is of this machine ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("open_clip:/home/NAME/models/x", "open_clip:…/x"),
        ("open_clip:local-dir:/home/NAME/x", "open_clip:local-dir:…/x"),
        ("open_clip:ViT-B-32//home/me/w.pt", "open_clip:ViT-B-32/…/w.pt"),
        (r"transformers:C:\Users\NAME\m", "transformers:…/m"),
        (r"transformers:\\server\share\NAME\m", "transformers:…/m"),
        (r"transformers:\\server\share", "transformers:…"),
        ("transformers:~/NAME/m", "transformers:…/m"),
        ("transformers:file:///home/NAME/m", "transformers:…/m"),
        ("transformers:../NAME/m", "transformers:…/m"),
        ("transformers:NAME/models/m", "transformers:…/m"),
        ("diffusers:/data/my models/NAME/x/", "diffusers:…/x"),
        ("transformers:/home/NAME", "transformers:…"),
        (r"transformers:C:\Users\NAME", "transformers:…"),
        ("emoji+transformers:/home/NAME/a+b", "emoji+transformers:…/a+b"),
    ],
)
def test_a_model_in_a_folder_goes_by_its_last_part(text: str, expected: str) -> None:
    assert model_label(text) == expected == model_label(expected)
    assert shown_model(text) == f"{expected}, a local folder or file"
    assert expected in distinct_label(text) and distinct_label(text) != distinct_label(text + "2")
    with pytest.raises(BackendError, match="machine that this was shared from"):
        load_backend(expected.partition("+")[2] or expected)


@pytest.mark.parametrize(
    "text",
    [
        "emoji", "photo", "emoji:emoji-clip-reference", "transformers:openai/clip-vit-large-patch14", "comfyui:SDXL",
        "open_clip:ViT-B-32/laion2b_s34b_b79k", "open_clip:hf-hub:laion/CLIP-x", "an open_clip model of your own",
        "diffusers:hf-internal-testing/tiny-stable-diffusion-pipe", "emoji+photo", "",
    ],
)  # fmt: skip
def test_other_models_keep_their_names(text: str) -> None:
    assert model_label(text) == shown_model(text) == distinct_label(text) == text


def test_a_folder_that_is_called_as_a_repository_is_one_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_label(f"transformers:{USER}/m") == f"transformers:{USER}/m"
    (tmp_path / USER / "m").mkdir(parents=True)
    assert model_label(f"transformers:{USER}/m") == "transformers:…/m"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("see /home/me/pics/a.png: broken", "see …/a.png: broken"),
        ("[Errno 2] No such file: '/tmp/two words/b c.png'", "[Errno 2] No such file: '…/b c.png'"),
        ("PosixPath('/home/me/x')", "PosixPath('…/x')"),
        ("cosine similarity by open_clip:ViT-B-32//home/me/w.pt", "cosine similarity by open_clip:ViT-B-32/…/w.pt"),
        ("a token hf_abcdefghijklmnopqrst!", "a token hf_…!"),
        (r'{"C:\\Users\\me\\pics": 3}', '{"…/pics": 3}'),
        ("(/mnt/d/x/y.pt)", "(…/y.pt)"),
    ],
)
def test_paths_in_a_text_go_by_their_last_part(text: str, expected: str) -> None:
    assert without_machine(text) == expected == without_machine(expected)


@pytest.mark.parametrize(
    "text",
    ["https://huggingface.co/user/name", "and/or a / b", "1/2/3", "red/green", "hf-hub:laion/x", "</b></i>", "a: b"],
)
def test_other_texts_stay(text: str) -> None:
    assert without_machine(text) == text


def test_the_name_of_the_machine_is_left_out(home: Path) -> None:
    assert without_machine(f"worker on {HOST} died") == "worker on … died" and f"x{HOST}" in without_machine(f"x{HOST}")


# --- the doors ------------------------------------------------------------------------------


def test_prompts_of_the_commands(home: Path, out: Path, hub: LoopbackHub) -> None:
    picture = home / "pictures" / "a.png"
    found = Run("invert", picture, "--model", model(home), *FLAGS, "--save", out / "one")
    assert found.code == 0 and "here:…/m, a local folder" in found.err and PLACES_FILE in found.err
    banked = Run(
        "invert", picture, "--model", model(home), *FLAGS, "--bank", home / "bank.txt", "--method", "phrase-bank",
        "--save", out / "two", "--json",
    )  # fmt: skip
    long = Run("distill", "the old red house near a river", "--model", model(home), *FLAGS, "--save", out / "three")
    told = json.loads(Run("distill", "the old red house", "--model", model(home), *FLAGS, "--json").out)
    assert told["model"] == "here:…/m"
    for name in ("one", "two", "three"):
        with pytest.warns(MachineNotice, match="model is now 'here:…/m'"):
            pushed = Run("push", out / name, f"alice/{name}")
        assert pushed.code == 0
    written = [content for repo in hub.repos.values() for content in repo.files.values()]
    assert b"here:\xe2\x80\xa6/m, a local folder or file" in hub.repos["alice/one"].files["README.md"]
    assert_nothing_told(out, *written, found.out, found.err, banked.out, long.out, long.err, pushed.out, pushed.err)
    assert f"{home}" in (out / "one" / PLACES_FILE).read_text(), "what opens the model again is kept for this machine"


def test_a_prompt_is_opened_again_here_and_names_its_model_elsewhere(home: Path, out: Path, hub: LoopbackHub) -> None:
    prompt = PromptInverter(model(home)).invert(home / "pictures" / "a.png", **QUICK)
    prompt.save_pretrained(out)
    assert HardPrompt.from_pretrained(out) == prompt and prompt.model == model(home)
    assert concatenate([HardPrompt.from_pretrained(out)] * 2).model == model(home)
    with pytest.warns(MachineNotice, match="folders and names of this machine are not shared: model is now"):
        pushed = prompt.push_to_hub("alice/x")
    assert pushed.notices == ("folders and names of this machine are not shared: model is now 'here:…/m'",)
    assert set(hub.repos["alice/x"].files) == {".gitattributes", "README.md", "prompt.json"}
    pulled = HardPrompt.from_pretrained("alice/x")
    assert pulled.model == "here:…/m" and pulled == dataclasses.replace(prompt, model="here:…/m")
    with pytest.raises(BackendError, match="machine that this was shared from"):
        concatenate([pulled, pulled])
    PROMPT.save_pretrained(out)
    assert not (out / PLACES_FILE).exists(), "what an older prompt said there is gone"


def test_what_a_notebook_keeps(home: Path) -> None:
    prompt = PromptInverter(model(home)).invert(home / "pictures" / "a.png", **QUICK)
    shown = io.StringIO()
    shown.text = shown.write  # type: ignore[attr-defined]
    prompt._repr_pretty_(shown, False)
    assert "here:…/m" in shown.getvalue()
    assert_nothing_told(Path("/nowhere"), prompt._repr_html_(), shown.getvalue(), prompt.to_json())


def test_judges_and_what_programs_wrote_of_the_search(home: Path, out: Path, hub: LoopbackHub) -> None:
    judged = PromptInverter(
        model(home), judge=load_backend(model(home, "judge")), prior=load_backend(model(home, "lm"))
    )
    prompt = judged.invert(home / "pictures" / "a.png", **QUICK)
    told = {
        "judge": model(home, "judge"),
        "images": [str(home / "a.png")],
        "source": home / "a.png",
        "note": f"on {HOST}",
    }
    prompt = dataclasses.replace(
        prompt,
        score_unit=f"cosine similarity by {model(home, 'judge')}",
        provenance={**prompt.provenance, **told, "clip_model": model(home), "output_dir": f"runs/{USER}/x"},
    )
    prompt.save_pretrained(out)
    with pytest.warns(MachineNotice, match=r"score_unit is now .*provenance.judge is now .*provenance.images is now"):
        prompt.push_to_hub("alice/x")
    assert_nothing_told(out, *hub.repos["alice/x"].files.values())
    assert HardPrompt.from_pretrained("alice/x").provenance["images"] == ["…/a.png"]


def test_a_persons_own_words_are_told_of_and_never_changed(hub: LoopbackHub) -> None:
    words = f"red house in /home/{USER}/pictures/x"
    prompt = dataclasses.replace(PROMPT, text=words, provenance={"original": f"as in C:\\Users\\{USER}\\b c"})
    with pytest.warns(MachineNotice, match="your own words") as said:
        pushed = prompt.push_to_hub("alice/x")
    assert "text ('…/x')" in heard(said) and "provenance.original" in heard(said) and USER not in heard(said)
    assert len(pushed.notices) == 1
    assert HardPrompt.from_pretrained("alice/x") == prompt


def test_tuners(home: Path, out: Path, hub: LoopbackHub) -> None:
    template = ("--template", "{prompt} {text} the {label}")
    tuned = Run("tune", home / "train.csv", "--model", model(home, "lm"), *template, *FLAGS, "--save", out, "--resume", out / "runs")  # fmt: skip
    assert tuned.code == 0
    as_json = Run("tune", home / "train.csv", "--model", model(home, "lm"), *template, *FLAGS, "--json")
    tuner = ClassifierPromptTuner.from_pretrained(out)
    assert tuner.model == model(home, "lm") == tuner.hard_prompt_.model
    labeled = Run("classify", out, home / "train.csv")
    with pytest.warns(MachineNotice, match="model is now 'here:…/lm'"):
        tuner.push_to_hub("alice/t")
    assert_nothing_told(
        out, *hub.repos["alice/t"].files.values(), tuned.out, tuned.err, as_json.out, labeled.out, labeled.err
    )
    elsewhere = ClassifierPromptTuner.from_pretrained("alice/t")
    with pytest.raises(BackendError, match=r"here:…/lm.*pass the place where you have that model"):
        elsewhere.predict(["red fire"])
    assert ClassifierPromptTuner.from_pretrained("alice/t", model=toy_language_model()).predict(["red fire"])


@pytest.mark.parametrize("output", ["p.jsonl", "p.csv", "p.parquet", "captions", "parts"])
def test_batches(output: str, home: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    further = ("--format", "txt") if output == "captions" else ()
    (home / "more").mkdir()
    ToyEncoder().picture("black cat").save(home / "more" / "a.png")
    monkeypatch.chdir(home.parent.parent)
    sources = (home / "pictures", f"{USER}/my work/more")
    done = noticed(
        "batch", *sources, "--output", out / output, "--model", model(home), *FLAGS, "--unlike", f"{USER}/my work/more/a.png",
        *further,
    )  # fmt: skip
    assert done.code == 1, done.err
    assert_nothing_told(out, done.out, done.err)
    again = Run(
        "batch", *sources, "--output", out / output, "--model", model(home), *FLAGS, "--unlike", home / "more" / "a.png",
        *further,
    )  # fmt: skip
    assert "0 prompts" in again.err, "the same run is known again"
    other = Run("batch", *sources, "--output", out / output, "--model", model(home.parent), *FLAGS, *further)
    other.fails("other settings", "model was 'here:…/m #")
    assert USER not in other.err.replace(str(out), "")


def test_the_rows_of_a_batch_say_what_was_shortened(home: Path, out: Path) -> None:
    keys = [
        {"image": home / "pictures" / f"{name}.png", "path": str(home / f"{name}.png")} for name in ("a", "b", "broken")
    ]
    with pytest.warns(MachineNotice, match=r"key is now '…/a.png #\w{8}', model is now 'here:…/m'"):
        report = invert_many(keys, out / "p.csv", model(home), key="path", **QUICK)
    assert len(report.notices) == 1 and (report.done, report.failed) == (2, 1)
    rows = list(csv.DictReader(io.StringIO((out / "p.csv").read_text())))
    assert len({row["key"] for row in rows}) == 3 and "broken.png" in rows[2]["error"]
    assert_nothing_told(out)


def test_soft_prompts_of_trainers(home: Path, out: Path, hub: LoopbackHub) -> None:
    stored = {
        "ss_output_dir": f"{USER}/runs", "ss_sd_model_name": str(home / "base.ckpt"), "sd_checkpoint_name": str(home / "x.ckpt"),
        "ss_dataset_dirs": json.dumps({str(home / "pictures"): {"n": 3}}), "ss_training_comment": f"made on {HOST}",
    }  # fmt: skip
    prompt = soft(metadata=stored, base_models=(str(home / "base.ckpt"),))
    of_lm = SoftPrompt(
        {"lm": torch.ones(2, 8)}, name="x", base_models=(str(home / "models" / "m"),),
        metadata={"base_model_name_or_path": str(home / "models" / "m")},
    )  # fmt: skip
    for format, name in (("diffusers", "a.safetensors"), ("a1111", "a.pt"), ("kohya", "k.pt"), ("comfyui", "c.safetensors")):  # fmt: skip
        prompt.save(out / name, format=format)
    of_lm.save(out / "peft", format="peft")
    prompt.save_pretrained(out / "kept")
    of_lm.save_pretrained(out / "kept lm")
    for name, value in (("alice/a", prompt), ("alice/b", of_lm)):
        with pytest.warns(MachineNotice, match="base_models is now '…/"):
            push(name, soft_prompt=value)
    assert_nothing_told(out, *(content for repo in hub.repos.values() for content in repo.files.values()))
    assert SoftPrompt.from_pretrained("alice/b").base_models == ("…/m",)


def test_reports_of_soft_prompts(home: Path, out: Path) -> None:
    place = home / "style.pt"
    soft(metadata={}).save(place, format="a1111")
    content = torch.load(place, weights_only=True)
    torch.save({**content, "sd_checkpoint_name": str(home / "base.ckpt")}, place)
    shown = Run("inspect", place, "--report", out / "audit.html")
    told = Run("inspect", place, "--json")
    assert shown.code == 0 and "names folders of the machine that it was trained on" in shown.out
    (home / "no.pt").write_bytes(b"nothing of this kind")
    refused = Run("inspect", home / "no.pt", "--report", out / "refused.html")
    assert refused.code == 2 and (out / "refused.html").exists()
    assert_nothing_told(out, shown.out, shown.err, told.out)


def test_distilled_and_learned(home: Path, out: Path) -> None:
    from hardprompts.distillation import learn_soft_prompt

    distilled = PromptDistiller(model(home)).distill("the old red house near a river", **QUICK)
    distilled.save_pretrained(out / "d")
    assert DistilledPrompt.from_pretrained(out / "d") == distilled
    backend = load_backend(model(home))
    learned = learn_soft_prompt(backend, home / "pictures" / "a.png", num_tokens=2, max_steps=2, seed=0, name="x")
    assert learned.metadata["model"] == model(home)
    assert learned.cleared()[0].metadata["model"] == "here:…/m"
    assert_nothing_told(out)


def test_tables_of_several_models(home: Path) -> None:
    from hardprompts.classification.transfer import TransferReport, evaluate_transfer, transfer_table
    from hardprompts.distillation.portability import Portability, PortabilityReport

    ported = PortabilityReport("red", "red", (Portability(model(home), 0.5, 0.4, 0.3),))
    assert_nothing_told(Path("/nowhere"), str(ported))
    tuner = fitted_tuner()
    other = dataclasses.replace(toy_language_model(), name=model(home, "lm"))
    texts, labels = ["red fire", "old night"] * 4, ["sun", "moon"] * 4
    (report,) = evaluate_transfer(tuner, [other], texts, labels, random_prompts=0)
    assert isinstance(report, TransferReport) and "here:…/lm" in transfer_table([report])
    assert_nothing_told(Path("/nowhere"), transfer_table([report]), json.dumps(report.to_dict(), default=str))
