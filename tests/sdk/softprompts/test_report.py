"""The audit of a soft prompt and its page: what it says is true, and nothing from the file can act on it."""

import dataclasses
import hashlib
import json
import math
import os
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hardprompts import PromptTemplate, SoftPrompt
from hardprompts.cli import app
from hardprompts.cli.audit import audits_of, stored_dtypes
from hardprompts.softprompts import analyze, decode_nearest
from hardprompts.softprompts.audit import Audit, Decoded, FileFacts, read_ban_list, spells
from hardprompts.softprompts.plots import curve_svg, histogram_svg
from hardprompts.softprompts.report import render_refusal, render_report
from hardprompts.softprompts.robustness import Curve, Histogram, Spread, robustness
from hardprompts.testing import toy_backend
from hardprompts.vocabulary import Vocabulary

SHARED_DATA = "HARDPROMPTS_SHARED_DATA"
FILE = FileFacts("style.safetensors", 1234, "ab" * 32)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return toy_backend().vocabulary


def soft(values: torch.Tensor | None = None, **fields: Any) -> SoftPrompt:
    return SoftPrompt({"text_encoder": drawn(3, 32) if values is None else values}, **{"name": "<x>", **fields})


def compared(prompt: SoftPrompt, vocabulary: Vocabulary, **fields: Any) -> Audit:
    """All that a model adds."""
    encoder = toy_backend().text_encoder
    embeddings = prompt.embeddings["text_encoder"]
    return Audit(
        prompt,
        model="toy",
        encoder="text_encoder",
        geometry=analyze(embeddings, vocabulary),
        nearest=decode_nearest(embeddings, vocabulary),
        spread=Spread.of(embeddings, vocabulary),
        robustness=robustness(
            embeddings, vocabulary, encoder.encode, encoder.max_tokens, template=PromptTemplate("red {}")
        ),
        **fields,
    )


def texts(audit: Audit, level: str) -> str:
    return " ".join(finding.text for finding in audit.findings if finding.level == level)


# --- robustness -----------------------------------------------------------------------------


def bag_of_directions(embeddings: torch.Tensor) -> torch.Tensor:
    """An encoder for which lengths count for nothing beyond a tenth, and directions for all."""
    return torch.nn.functional.normalize(embeddings, dim=-1).sum(dim=1)


def bag_of_embeddings(embeddings: torch.Tensor) -> torch.Tensor:
    return embeddings.sum(dim=1)


def test_shrinking_does_nothing_to_an_encoder_that_sees_directions(vocabulary: Vocabulary) -> None:
    report = robustness(drawn(3, 32), vocabulary, bag_of_directions, 20, template=PromptTemplate("red {}"))
    for values in (report.shrunk.soft, report.shrunk.natural_median, report.shrunk.natural_low):
        assert values == pytest.approx([1.0] * len(values), abs=1e-4)
    assert report.shrunk.kept_until() is None
    assert report.rotated.soft[0] == pytest.approx(1, abs=1e-4) and report.rotated.soft[-1] < 0.9


def test_the_shares_are_those_of_the_definition(vocabulary: Vocabulary) -> None:
    values, template = 3 * drawn(2, 32), PromptTemplate("red {} house")
    report = robustness(
        values, vocabulary, bag_of_embeddings, 20, template=template, factors=(1, 4), degrees=(0, 25), natural_prompts=3
    )
    before, after = (vocabulary.embed(torch.tensor(ids)).sum(dim=0) for ids in vocabulary.template_ids(template))
    fixed = before + after
    nearest = vocabulary.embed(vocabulary.nearest(values))

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.cosine_similarity(a.double(), b.double(), dim=0))

    def turned(row: torch.Tensor, to: torch.Tensor, by: float) -> torch.Tensor:
        along = row / row.norm()
        across = to - (to @ along) * along
        across = across / across.norm()
        by = min(by, math.acos(cosine(row, to)))
        return (math.cos(by) * along + math.sin(by) * across) * row.norm()

    start = fixed + values.sum(dim=0)
    gap = 1 - cosine(start, fixed)
    quarter = 1 - (1 - cosine(fixed + values.sum(dim=0) / 4, start)) / gap
    rows = [turned(row, to, math.radians(25)) for row, to in zip(values, nearest, strict=True)]
    turn = 1 - (1 - cosine(fixed + sum(rows), start)) / gap
    words = 1 - (1 - cosine(fixed + nearest.sum(dim=0), start)) / gap
    assert report.shrunk.soft == pytest.approx((1, quarter), abs=1e-4)
    assert report.rotated.soft == pytest.approx((1, turn), abs=1e-4)
    assert report.nearest_kept == pytest.approx(words, abs=1e-4)
    assert (report.template, report.tokens, report.natural_prompts) == ("red {} house", 2, 3)
    assert all(
        low <= middle <= high
        for curve in (report.shrunk, report.rotated)
        for low, middle, high in zip(curve.natural_low, curve.natural_median, curve.natural_high, strict=True)
    )


def test_what_has_no_room_is_left_out(vocabulary: Vocabulary) -> None:
    seen = []

    def encode(embeddings: torch.Tensor) -> torch.Tensor:
        seen.append(embeddings.shape[1])
        return bag_of_embeddings(embeddings)

    report = robustness(drawn(30, 32), vocabulary, encode, 8, template=PromptTemplate("red {}"))
    assert report.tokens == 7 and max(seen) == 8
    many = robustness(drawn(90, 32), vocabulary, encode, 200, template=PromptTemplate("red {}"), natural_prompts=4)
    assert many.tokens == 90 and many.natural_prompts == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"template": PromptTemplate("{}")},
        {"max_tokens": 1},
        {"natural_prompts": 0},
        {"factors": (2.0, 3.0)},
        {"factors": ()},
        {"degrees": (10.0,)},
        {"embeddings": torch.zeros(2, 32)},
    ],
)
def test_misuse_of_robustness(changes: dict[str, Any], vocabulary: Vocabulary) -> None:
    values: dict[str, Any] = {
        "embeddings": drawn(2, 32),
        "vocabulary": vocabulary,
        "encode": bag_of_embeddings,
        "max_tokens": 9,
        "template": PromptTemplate("red {}"),
    }
    with pytest.raises(ValueError):
        robustness(**{**values, **changes})


def test_half_the_effect() -> None:
    curve = Curve((1.0, 2.0, 3.0), (1.0, 0.6, 0.4), *[(1.0, 1.0, 1.0)] * 3)
    assert curve.kept_until() == 3 and curve.kept_until(0.9) == 2 and curve.kept_until(0.1) is None


def test_histograms_count() -> None:
    found = Histogram.of(torch.tensor([0.0, 1.0, 9.0]), torch.tensor([0.1, 0.6, 0.6, -5.0]), 0, 1, bins=2)
    assert found.edges == (0, 0.5, 1)
    assert found.soft == pytest.approx((1 / 3, 2 / 3)) and found.natural == (0.5, 0.5)


def test_the_spread_is_that_of_the_vocabulary(vocabulary: Vocabulary) -> None:
    values = torch.cat([vocabulary.embed(torch.tensor(vocabulary.encode("red"))), 1000 * drawn(1, 32)])
    spread = Spread.of(values, vocabulary)
    assert sum(spread.norms.soft) == pytest.approx(1) and sum(spread.cosines.natural) == pytest.approx(1)
    assert spread.cosines.soft[-1] == 0.5, "one of the two is a word itself"
    assert spread.norms.soft[-1] == 0.5, "what is out of all bounds counts in the last bin"
    with pytest.raises(ValueError, match="width"):
        Spread.of(drawn(1, 5), vocabulary)


# --- findings and the verdict -----------------------------------------------------------------


def test_what_is_near_and_what_is_far(vocabulary: Vocabulary) -> None:
    red = vocabulary.embed(torch.tensor(vocabulary.encode("red house")))
    near = compared(soft(red + 0.01 * drawn(2, 32)), vocabulary)
    assert near.verdict.level == "fine" and "near to natural language: 2 of 2" in near.verdict.text
    assert near.robustness is not None and near.robustness.nearest_kept > 0.95
    far = compared(soft(0.3 * drawn(2, 32, seed=5)), vocabulary)
    assert far.is_far and "far from natural language: 0 of its 2 tokens" in far.verdict.text
    assert "not compared with a model" in Audit(soft()).verdict.text


def test_lengths_out_of_distribution(vocabulary: Vocabulary) -> None:
    found = compared(soft(100 * drawn(2, 32)), vocabulary)
    assert found.verdict.level == "warning" and "Out-of-distribution length" in texts(found, "warning")
    assert "2 of 2 longer than 99.9%" in texts(found, "warning")
    assert "Out-of-distribution" in texts(compared(soft(1e-4 * drawn(2, 32)), vocabulary), "warning")
    row = vocabulary.embed(torch.tensor(vocabulary.encode("house")))
    assert "Out-of-distribution" not in texts(compared(soft(row), vocabulary), "warning")


def test_the_ban_list(vocabulary: Vocabulary) -> None:
    row = vocabulary.embed(torch.tensor(vocabulary.encode("red house")))
    audit = compared(
        soft(row, name="a Red-ish thing"),
        vocabulary,
        ban_list=("RED", "use", "unseen"),
        decoded=Decoded("a red house", "text features", 0.9, 0.8),
    )
    (warning,) = [finding.text for finding in audit.findings if "ban list" in finding.text]
    assert warning.startswith("'RED' is on the ban list, and is in its name, its nearest words")
    assert "the prompt that it was decoded to" in warning
    assert audit.verdict.level == "warning" and "keeps 90%" in audit.verdict.text


@pytest.mark.parametrize(
    "text, phrase, found",
    [
        ("a red cat", "Red", True),
        ("a redder cat", "red", False),
        ("a-red-cat", "red", True),
        ("blood  red", "BLOOD red", True),
        ("STRASSE", "straße", True),
        ("anything", " ", False),
        ("a.b", "a?b", False),
        ("c++ code", "c++", True),
    ],
)
def test_words_are_found_as_words(text: str, phrase: str, found: bool) -> None:
    assert spells(text, phrase) is found


def test_a_ban_list_file(tmp_path: Path) -> None:
    path = tmp_path / "ban.txt"
    path.write_text("\ufeff# words\n\n  red cat \nblue\n", encoding="utf-8")
    assert read_ban_list(path) == ("red cat", "blue")
    for content in (b"", b"# nothing\n", b"\xff\xfe"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"ban\.txt"):
            read_ban_list(path)


def test_odd_values() -> None:
    values = drawn(80, 32)
    values[3] = 0
    values[5] = values[4]
    values[7, 7] = 300
    audit = Audit(soft(values, name="\uff58"), dtypes=("float8_e4m3fn",))
    warnings, notes = texts(audit, "warning"), texts(audit, "note")
    assert "1 of the tokens for text_encoder are zero" in warnings and "is 300" in warnings
    assert "repeat another" in notes and "float8_e4m3fn" in notes and "80 tokens" in notes and "ASCII" in notes
    assert "1500 tokens" in texts(Audit(soft(drawn(1500, 32))), "warning")
    assert not Audit(soft(), dtypes=("float16",)).findings
    assert "no name" in texts(Audit(soft(name="")), "note")


def test_the_audit_as_json(vocabulary: Vocabulary) -> None:
    audit = compared(soft(metadata={"loss": float("nan")}), vocabulary, decoded=Decoded("x", "features", 0.5))
    values = json.loads(json.dumps(audit.to_dict(), allow_nan=False))
    assert values["verdict"] == audit.verdict.text and values["robustness"]["shrunk"]["positions"][0] == 1
    assert values["decoded"]["faithfulness"] == 0.5 and values["metadata"] == {"loss": "nan"}


def test_the_facts_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"x" * 3_000_000)
    assert FileFacts.of(path) == FileFacts("a.bin", 3_000_000, hashlib.sha256(b"x" * 3_000_000).hexdigest())
    assert FileFacts.of(tmp_path) == FileFacts(tmp_path.name)


def test_what_the_values_are_stored_as(tmp_path: Path) -> None:
    torch.save(
        {"string_to_token": {"*": torch.tensor(5)}, "string_to_param": {"*": drawn(1, 768).half()}}, tmp_path / "a.pt"
    )
    assert stored_dtypes(tmp_path / "a.pt") == ("float16",)
    assert stored_dtypes(tmp_path) == stored_dtypes(tmp_path / "none") == ()


# --- the page -------------------------------------------------------------------------------

VOID = {"meta", "br", "line", "circle", "rect", "polygon", "polyline"}


class Page(HTMLParser):
    """The page as a browser takes it: well nested, and all elements and attributes known."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.words)

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.elements}


def test_the_page_says_what_the_audit_says(vocabulary: Vocabulary) -> None:
    audit = compared(
        soft(5 * drawn(3, 32), step=500, base_models=("some/model",)),
        vocabulary,
        dtypes=("float32",),
        decoded=Decoded("a photo of red", "text features", 0.87, 0.81),
    )
    page = Page(render_report(FILE, [audit]))
    for expected in (
        "<x>", audit.verdict.text, "style.safetensors", "1,234 bytes", "ab" * 32, "float32", "some/model", "500", "toy",
        "a photo of red", "87%", "81%", "0 of 3", audit.nearest.text, "Robustness",
    ):  # fmt: skip
        assert expected in page.text, expected
    for finding in audit.findings:
        assert finding.text in page.text
    for token in audit.geometry.tokens:
        assert f"{token.norm:.3g}" in page.text and token.by_cosine[0].text in page.text
    assert sum(name == "svg" for name in [name for name, _ in page.elements]) == 4
    first = [name for name, attributes in page.elements if "verdict" in (attributes.get("class") or "")]
    assert first == ["p"] and page.text.index(audit.verdict.text) < page.text.index("What it is")


def test_the_page_without_a_model() -> None:
    page = Page(render_report(FILE, [Audit(soft())]))
    assert "not compared with a model" in page.text and "svg" not in page.names
    twins = torch.cat([2 * torch.eye(2, 32), 5 * torch.eye(1, 32)])
    told = Page(render_report(FILE, [Audit(soft(twins))])).text
    assert "lengths from 2 to 5; the two most alike tokens have a cosine of 1.00" in told
    with pytest.raises(ValueError, match="at least one"):
        render_report(FILE, [])


HOSTILE = "</style></title><script>alert(1)</script><img src=//x onerror=alert(1)>' \" & \x1b[2J\u202egnp.exe\u2066\x00"


def test_nothing_from_the_file_acts_on_the_page(vocabulary: Vocabulary) -> None:
    plain = compared(
        soft(metadata={"a": "b"}, base_models=("c",)), vocabulary, decoded=Decoded("d", "e", 0.5), notes=("f",)
    )
    assert plain.geometry is not None and plain.nearest is not None and plain.robustness is not None
    token = plain.geometry.tokens[0]
    near = tuple(dataclasses.replace(each, text=HOSTILE) for each in token.by_cosine)
    hostile = dataclasses.replace(
        plain,
        prompt=soft(
            name=HOSTILE.replace("/", "").translate({i: None for i in (0, 27, 0x202E, 0x2066)}),
            metadata={HOSTILE: HOSTILE},
            base_models=(HOSTILE,),
            source_format=HOSTILE,
        ),
        dtypes=(HOSTILE,),
        model=HOSTILE,
        geometry=dataclasses.replace(plain.geometry, tokens=(dataclasses.replace(token, by_cosine=near),) * 3),
        nearest=dataclasses.replace(plain.nearest, text=HOSTILE),
        robustness=dataclasses.replace(plain.robustness, template=f"{HOSTILE}{{}}"),
        decoded=Decoded(HOSTILE, HOSTILE, 0.5),
        ban_list=("alert",),
        notes=(HOSTILE,),
    )
    expected = Page(render_report(FILE, [plain]))
    for text in (
        render_report(FileFacts(HOSTILE, 5, "00"), [hostile]),
        render_refusal(FileFacts(HOSTILE, 5, "00"), HOSTILE),
    ):
        page = Page(text)
        assert page.names <= expected.names, page.names - expected.names
        for name, attributes in page.elements:
            assert not any(key.startswith("on") or key in ("href", "src", "srcdoc", "style") for key in attributes), (
                name
            )
        assert not set(text) & {"\x1b", "\x00", "\u202e", "\u2066"}
        assert text.count("<script") == 0 and "<script>alert(1)</script>" in page.text
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")


def test_the_page_forbids_what_might_slip_through() -> None:
    page = Page(render_report(FILE, [Audit(soft())]))
    policies = [a["content"] for name, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert len(policies) == 1 and policies[0] is not None and policies[0].startswith("default-src 'none'")
    assert ("meta", {"name": "viewport", "content": "width=device-width,initial-scale=1"}) in page.elements


def test_long_files_have_short_pages(vocabulary: Vocabulary) -> None:
    many = compared(soft(drawn(400, 32), metadata={f"key {i}": "v" * 900 for i in range(1000)}), vocabulary)
    text = render_report(FILE, [many])
    assert len(text) < 200_000 and "320 more tokens" in Page(text).text
    several = [Audit(soft(name=f"number {i}")) for i in range(40)]
    page = Page(render_report(FILE, several))
    assert "24 more soft prompts" in page.text and "number 39" in page.text


def test_plots_stay_in_their_frame() -> None:
    curve = Curve((1.0, 2.0, 20.0), (1.0, -30.0, 9.0), (1.0, 0.5, 0.2), (1.0, -9.0, 0.0), (1.0, 1.0, 4.0))
    flat = Histogram((0.0, 0.0), (1.0,), (1.0,))
    for text in (
        curve_svg(curve, "t", "x", logarithmic=True),
        curve_svg(curve, "t", "x"),
        histogram_svg(flat, "t", "x"),
        histogram_svg(Histogram.of(drawn(9), drawn(99), -1, 1), "t", "x"),
    ):
        page = Page(text)
        for name, attributes in page.elements:
            for key, value in attributes.items():
                if key in ("x", "x1", "x2", "cx"):
                    assert 0 <= float(value or "nan") <= 360, (name, key, value)
                if key in ("y", "y1", "y2", "cy"):
                    assert 0 <= float(value or "nan") <= 210, (name, key, value)


# --- the command ----------------------------------------------------------------------------


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    soft(drawn(2, 32)).save(path, format="diffusers")
    return path


@pytest.mark.usefixtures("toy_plugin")
def test_inspect_writes_the_page(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "ban.txt").write_text("x\n")
    found = run(
        "inspect", saved, "-m", "toy", "--report", tmp_path / "new" / "audit.html", "--ban-list", tmp_path / "ban.txt"
    )
    assert found.exit_code == 0 and "'x' is on the ban list" in found.stdout and "wrote" in found.stderr
    page = Page((tmp_path / "new" / "audit.html").read_text(encoding="utf-8"))
    assert "Robustness" in page.text and "'x' is on the ban list" in page.text
    assert os.listdir(tmp_path / "new") == ["audit.html"]


def test_a_refused_file_has_a_page_too(tmp_path: Path) -> None:
    (tmp_path / "bad.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'touch x'\ntR.")
    found = run("inspect", tmp_path / "bad.pt", "--report", tmp_path / "audit.html")
    assert found.exit_code == 2 and found.stderr.startswith("error: ")
    page = Page((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "refused" in page.text and "plain pickle" in page.text and str(tmp_path) not in page.text


def test_misuse_of_inspect(saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    for words, why in (
        (("--report", saved), "a file of its own"),
        (("--report", tmp_path), "a file of its own"),
        (("--ban-list", tmp_path / "none"), "none"),
        (("--decode",), "--decode needs --model"),
    ):
        found = run("inspect", saved, *words)
        assert found.exit_code == 2 and why in found.stderr and found.stderr.count("\n") == 1
    assert saved.read_bytes() == before


@pytest.mark.usefixtures("toy_plugin")
def test_a_failed_page_keeps_the_old_one(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audit.html").write_text("old")
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(OSError("disk full")))
    assert run("inspect", saved, "--report", tmp_path / "audit.html").exit_code == 2
    assert sorted(os.listdir(tmp_path)) == ["audit.html", "x.safetensors"]
    assert (tmp_path / "audit.html").read_text() == "old"


@pytest.mark.skipif(SHARED_DATA not in os.environ, reason=f"{SHARED_DATA} names no folder with real files")
def test_real_files_in_time(tmp_path: Path) -> None:
    files = sorted(path for path in (Path(os.environ[SHARED_DATA]) / "embeddings").iterdir() if path.suffix != ".md")
    assert len(files) > 10
    for file in files:
        begin = time.process_time()
        audits = audits_of(file)
        page = Page(render_report(FileFacts.of(file), audits))
        assert time.process_time() - begin < 10
        assert audits[0].verdict.text in page.text and audits[0].dtypes


@pytest.mark.usefixtures("toy_plugin")
def test_inspect_decodes_by_what_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardprompts.cli.audit.DECODING_SECONDS", 2.0)
    vocabulary = toy_backend().vocabulary
    path = tmp_path / "x.safetensors"
    soft(1.1 * vocabulary.embed(torch.tensor(vocabulary.encode("red house")))).save(path, format="diffusers")
    found = run("inspect", path, "-m", "toy", "--decode", "--json", "--report", tmp_path / "audit.html")
    assert found.exit_code == 0, found.stderr
    (values,) = json.loads(found.stdout)
    assert values["decoded"] is not None, values["findings"]
    page = Page((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert "What it does, in words" in page.text and values["decoded"]["text"] in page.text
    assert f"{values['decoded']['faithfulness']:.0%}" in page.text
