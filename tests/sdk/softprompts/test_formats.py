"""Formats as plugins: read and written by the public hook, chosen by the caller where several fit."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hardprompts import FileFormatError, UnknownName, hookimpl, plugins
from hardprompts.atomic import write_files_atomically
from hardprompts.softprompts import SoftPrompt
from hardprompts.softprompts import containers as files_module
from hardprompts.softprompts.containers import Match, SoftPromptFile
from hardprompts.softprompts.prompt import choose
from hardprompts.testing import check_format


def rows(tokens: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


class Numbers:
    """A format of somebody else: text, one token a line."""

    suffixes = (".numbers",)

    def detect(self, file: SoftPromptFile) -> Match:
        if file.container != "unknown":
            return Match.NO
        with open(file.path, "rb") as opened:
            return Match.CERTAIN if opened.read(8) == b"numbers\n" else Match.NO

    def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
        lines = file.path.read_text(encoding="utf-8").splitlines()[1:]
        return [
            SoftPrompt(
                {"clip_l": torch.tensor([[float.fromhex(n) for n in line.split()] for line in lines])}, name=file.name
            )
        ]

    def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
        if prompt.encoders != ("clip_l",):
            raise FileFormatError("numbers are of clip_l")
        lines = [" ".join(float.hex(n) for n in row) for row in prompt.embeddings["clip_l"].tolist()]
        return {path: ("numbers\n" + "\n".join(lines)).encode()}


@pytest.fixture
def numbers() -> Iterator[Numbers]:
    format = Numbers()

    class Plugin:
        soft_prompt_formats = staticmethod(hookimpl(lambda: {"numbers": format}))

    plugins.register(Plugin(), "numbers")
    yield format
    plugins.unregister("numbers")


def test_a_format_of_a_plugin_is_read_and_written(numbers: Numbers, tmp_path: Path) -> None:
    check_format(numbers)
    prompt = SoftPrompt({"clip_l": rows(2, 768)})
    assert prompt.save(tmp_path / "new" / "a.numbers", format="numbers") == (tmp_path / "new" / "a.numbers",)
    again = SoftPrompt.from_file(tmp_path / "new" / "a.numbers")
    assert again.source_format == "numbers" and again.name == "a"
    assert torch.equal(again.embeddings["clip_l"], prompt.embeddings["clip_l"])
    assert plugins.plugins()["numbers"] == ("numbers",)


def test_formats_that_break_their_contract_are_caught(tmp_path: Path) -> None:
    class Rounded(Numbers):
        def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
            return [SoftPrompt({"clip_l": super().read(file)[0].embeddings["clip_l"].half()})]

    class Greedy(Numbers):
        def detect(self, file: SoftPromptFile) -> Match:
            return Match.FITS

    class Forgetful(Numbers):
        def read(self, file: SoftPromptFile) -> list[SoftPrompt]:
            return []

    class Useless(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            raise FileFormatError("no")

    class Direct(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            contents = super().write(prompt, path)
            write_files_atomically(contents)
            return contents

    class Changing(Numbers):
        def write(self, prompt: SoftPrompt, path: Path) -> dict[Path, bytes]:
            return {
                path: super().write(prompt, path)[path] + b"\n" * (id(object()) // 16 % 1000 + random.randrange(1000))
            }

    class ReadOnly(Numbers):
        suffixes = ()

    for broken, message in [
        (Rounded(), "other values"),
        (Greedy(), "claims to know"),
        (Forgetful(), "came back as 0"),
        (Useless(), "writes none"),
        (Direct(), "returns the bytes"),
        (Changing(), "other bytes"),
        (ReadOnly(), "samples"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check_format(broken)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(AssertionError, match="does not know"):
        check_format(Numbers(), [tmp_path / "a.txt"])


def test_of_two_formats_that_fit_the_caller_chooses(tmp_path: Path) -> None:
    class Second(Numbers):
        pass

    class Plugin:
        soft_prompt_formats = staticmethod(hookimpl(lambda: {"first": Numbers(), "second": Second()}))

    path = tmp_path / "a.numbers"
    write_files_atomically(Numbers().write(SoftPrompt({"clip_l": rows(1, 768)}), path))
    plugins.register(Plugin(), "two")
    try:
        with pytest.raises(FileFormatError, match=r"formats first, second; choose with format="):
            SoftPrompt.from_file(path)
        assert SoftPrompt.from_file(path, format="second").source_format == "second"
    finally:
        plugins.unregister("two")


def test_wrong_formats_and_names_say_what_there_is(tmp_path: Path) -> None:
    prompt = SoftPrompt({"clip_l": rows(1, 768)}, name="cat")
    prompt.save(tmp_path / "a.pt", format="a1111")
    with pytest.raises(UnknownName, match=r"unknown soft prompt format 'webui'; available: .*a1111.*kohya"):
        SoftPrompt.from_file(tmp_path / "a.pt", format="webui")
    with pytest.raises(UnknownName, match="webui"):
        prompt.save(tmp_path / "b.pt", format="webui")
    with pytest.raises(FileFormatError, match="not of the format 'kohya'"):
        SoftPrompt.from_file(tmp_path / "a.pt", format="kohya")
    with pytest.raises(FileFormatError, match=r"written to files that end in \.pt, not 'b\.bin'"):
        prompt.save(tmp_path / "b.bin", format="a1111")
    with pytest.raises(FileFormatError, match="only read"):
        prompt.save(tmp_path / "b.pt", format="tensor")
    with pytest.raises(FileFormatError, match=r"holds 1 soft prompt \('cat'\), and none is called 'dog'"):
        SoftPrompt.from_file(tmp_path / "a.pt", name="dog")
    several = [SoftPrompt({"lm": rows(1, 4)}, name=f"n{i}") for i in range(30)]
    with pytest.raises(FileFormatError, match=r"30 soft prompts \('n0'.*'n19', \.\.\.\), and choose one"):
        choose(several, "", tmp_path)
    assert choose(several, "n7", tmp_path) is several[7]
    assert os.listdir(tmp_path) == ["a.pt"]


def test_a_failed_write_keeps_the_old_files_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = SoftPrompt({"clip_l": rows(1, 768), "clip_g": rows(1, 1280)}, name="<cat>")
    written = prompt.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    assert [path.name for path in written] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    before = [path.read_bytes() for path in written]

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files_module.os, "replace", full)
    other = SoftPrompt({"clip_l": rows(2, 768), "clip_g": rows(2, 1280)}, name="<cat>")
    with pytest.raises(OSError, match="no space left"):
        other.save(tmp_path / "learned_embeds.safetensors", format="diffusers")
    assert [path.read_bytes() for path in written] == before
    assert sorted(os.listdir(tmp_path)) == [path.name for path in written]
