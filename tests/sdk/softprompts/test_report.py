"""The page of an audit: it says what the audit says, and nothing from the file can act on it."""

import dataclasses
from typing import Any

import pytest
import torch
from audits import Page, compared

from hardprompts import SoftPrompt
from hardprompts.softprompts.audit import Audit, DecodedText, FileFacts
from hardprompts.softprompts.plots import CurvePlot, HistogramPlot
from hardprompts.softprompts.report import environment, render_refusal, render_report
from hardprompts.softprompts.robustness import Curve, Histogram
from hardprompts.vocabulary import Vocabulary

FILE = FileFacts("style.safetensors", 1234, "ab" * 32)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(values: torch.Tensor | None = None, **fields: Any) -> SoftPrompt:
    return SoftPrompt({"text_encoder": drawn(3, 32) if values is None else values}, **{"name": "<x>", **fields})


def test_the_page_says_what_the_audit_says(vocabulary: Vocabulary) -> None:
    audit = compared(
        soft(5 * drawn(3, 32), step=500, base_models=("some/model",)),
        vocabulary,
        dtypes=("float32",),
        decoded=DecodedText("a photo of red", "text features", 0.87, 0.81),
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
        soft(metadata={"a": "b"}, base_models=("c",)), vocabulary, decoded=DecodedText("d", "e", 0.5), notes=("f",)
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
        decoded=DecodedText(HOSTILE, HOSTILE, 0.5),
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
    svg: Any = environment().get_template("plots.svg.jinja").module
    for text in (
        svg.curve(CurvePlot.of(curve, logarithmic=True), "t", "x"),
        svg.curve(CurvePlot.of(curve), "t", "x"),
        svg.histogram(HistogramPlot.of(flat), "t", "x"),
        svg.histogram(HistogramPlot.of(Histogram.of(drawn(9), drawn(99), -1, 1)), "t", "x"),
    ):
        page = Page(text)
        assert {"title", "line", "text"} <= page.names
        for name, attributes in page.elements:
            for key, value in attributes.items():
                if key in ("x", "x1", "x2", "cx"):
                    assert 0 <= float(value or "nan") <= 360, (name, key, value)
                if key in ("y", "y1", "y2", "cy"):
                    assert 0 <= float(value or "nan") <= 210, (name, key, value)
