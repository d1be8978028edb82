"""The audit of a soft prompt: what it says is true."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from audits import compared

from hardprompts import SoftPrompt
from hardprompts.distillation.audits import stored_dtypes
from hardprompts.softprompts.audit import Audit, DecodedText, FileFacts, spells
from hardprompts.softprompts.robustness import Histogram, Spread
from hardprompts.vocabulary import Vocabulary


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def soft(values: torch.Tensor | None = None, **fields: Any) -> SoftPrompt:
    return SoftPrompt({"text_encoder": drawn(3, 32) if values is None else values}, **{"name": "<x>", **fields})


def texts(audit: Audit, level: str) -> str:
    return " ".join(finding.text for finding in audit.findings if finding.level == level)


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
        decoded=DecodedText("a red house", "text features", 0.9, 0.8),
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
    audit = compared(soft(metadata={"loss": float("nan")}), vocabulary, decoded=DecodedText("x", "features", 0.5))
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
