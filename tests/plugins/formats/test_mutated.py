"""Files of every format, damaged in five hundred ways: each is read or refused, in time, and none of them runs anything."""

import base64
import io
import json
import pickle
import random
import resource
import struct
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from hardprompts import FileFormatError
from hardprompts.softprompts.prompt import read_soft_prompts

FILES = 500

#: Seconds of this thread for one file, and bytes that all of them together may add to the process.
MAX_SECONDS = 5.0
MAX_GROWTH = 700 * 2**20

#: What only code that was run would do.
FORBIDDEN = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
)

EXTREMES = (0, 1, 7, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**33, 2**62, 2**63 - 1, 2**63, 2**64 - 1)


def rows(tokens: int, width: int) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(tokens * width))


def torch_file(value: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


class Canary:
    """An object whose pickle makes a file as soon as somebody loads it."""

    path = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (Canary.path, "w"))


def card(tokens: int) -> bytes:
    """A picture with a soft prompt in its texts, as one popular UI makes them."""
    values = {"TORCHTENSOR": rows(tokens, 768).tolist()}
    content = {"string_to_token": {"*": 265}, "string_to_param": {"*": values}, "name": "card", "step": 5}
    texts = PngInfo()
    texts.add_text("sd-ti-embedding", base64.b64encode(json.dumps(content).encode()).decode())
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def originals(canary: Path) -> list[tuple[str, bytes]]:
    """Undamaged files of each format, and some that carry code."""
    Canary.path = str(canary)
    a1111 = {"string_to_token": {"*": 265}, "string_to_param": {"*": rows(2, 768)}, "name": "style", "step": 5}
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(rows(1, 768))})
    sdxl = {"clip_l": rows(2, 768), "clip_g": rows(2, 1280)}
    bundle = {"bundle_emb.x.emb_params": rows(2, 768), "lora_unet.lora_up.weight": rows(2, 2)}
    return [
        ("a.pt", torch_file(a1111)),
        ("b.pt", torch_file(a1111, legacy=True)),
        ("c.pt", torch_file({**a1111, "string_to_param": parameters}, legacy=True)),
        ("d.pt", torch_file({**a1111, "string_to_param": parameters})),
        ("e.bin", torch_file({"<x>": rows(1, 768)[0]})),
        ("f.bin", torch_file({"<x>": rows(1, 768)[0].half()}, legacy=True)),
        ("g.safetensors", safetensors.torch.save({"<x>": rows(2, 768)}, {"format": "pt", "step": "5"})),
        ("h.safetensors", safetensors.torch.save(sdxl)),
        ("i.safetensors", safetensors.torch.save({**sdxl, "t5xxl": rows(2, 4096).bfloat16()})),
        ("j.safetensors", safetensors.torch.save(bundle)),
        ("k.pt", torch_file([{"x": rows(2, 768)}, {"y": rows(2, 1280)}])),
        ("l.pt", torch_file(rows(2, 4096))),
        ("m.png", card(1)),
        ("n.pt", torch_file({**a1111, "evil": Canary()})),
        ("o.pt", torch_file({**a1111, "evil": Canary()}, legacy=True)),
        ("p.bin", pickle.dumps({"x": Canary()})),
        ("adapter_model.safetensors", safetensors.torch.save({"prompt_embeddings": rows(4, 32)})),
    ]


# --- damage ---------------------------------------------------------------------------------


def flipped(data: bytes, draw: random.Random) -> bytes:
    found = bytearray(data)
    # Half of the time near the beginning, where headers are.
    reach = len(found) if draw.random() < 0.5 else min(len(found), 300)
    for _ in range(draw.choice((1, 2, 5, 20))):
        found[draw.randrange(reach)] ^= 1 << draw.randrange(8)
    return bytes(found)


def cut_off(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.choice((draw.randrange(len(data)), draw.randrange(min(len(data), 64)), len(data) - 1))]


def lengths(data: bytes, draw: random.Random) -> bytes:
    """Whole numbers of two, four or eight bytes become extreme ones; in zip archives where their sizes stand."""
    found = bytearray(data)
    marks = [i for i in range(len(data) - 60) if data[i : i + 4] in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")]
    for _ in range(draw.choice((1, 3))):
        form = draw.choice("<H <I <Q >H >I >Q".split())
        size = struct.calcsize(form)
        start = draw.choice(marks) + draw.randrange(4, 50) if marks and draw.random() < 0.7 else None
        place = start if start is not None else draw.randrange(max(1, min(len(found) - size, 400)))
        struct.pack_into(form, found, min(place, len(found) - size), draw.choice(EXTREMES) % (1 << 8 * size))
    return bytes(found)


def spliced(data: bytes, draw: random.Random, other: bytes) -> bytes:
    """A part of another file in the midst of this one; or a part of it twice, or not at all."""
    begin, end = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    part = draw.choice((other[: draw.randrange(len(other))], other[draw.randrange(len(other)) :], data[begin:end], b""))
    return data[:begin] + part + data[draw.choice((begin, end)) :]


def number(value: Any, draw: random.Random) -> Any:
    """A number, a shape, a dtype or whatever else stands in a header, and is not true."""
    if draw.random() < 0.2:
        return draw.choice((None, -1, 1e300, "", [], {}, [[]], "F8_E5M2", "I64", "\u202e", [1] * 50, True))
    if isinstance(value, dict):
        key = draw.choice(list(value) or ["x"])
        return {**value, key: number(value.get(key), draw)}
    if isinstance(value, list):
        place = draw.randrange(max(1, len(value)))
        return [*value[:place], number(value[place] if value else 0, draw), *value[place + 1 :]]
    if isinstance(value, int):
        return draw.choice((*EXTREMES, value + 1, value - 1, -value, value * 2, value // 2))
    return draw.choice(("F64", "F16", "BF16", "BOOL", "U8", "x" * 5000, "../../x", 5))


def lied(data: bytes, draw: random.Random) -> bytes:
    """A header of safetensors, of the right length and well-formed, that lies about what is in the file."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    for _ in range(draw.choice((1, 2))):
        header = number(header, draw)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def repacked(data: bytes, draw: random.Random) -> bytes:
    """An archive with correct check sums around a damaged pickle, or with damaged, missing or compressed parts."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for info in old.infolist():
            content, name = old.read(info), info.filename
            if name.endswith("data.pkl"):
                content = draw.choice((flipped, cut_off, lengths, flipped))(content, draw)
            elif draw.random() < 0.15:
                content = draw.choice((content[:-1], content * 2, b"", b"big", content))
            if draw.random() < 0.05:
                name = draw.choice(("data.pkl", "../../evil", "/evil", name + "x", "archive/data/0"))
            squeeze = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
            if draw.random() > 0.03 and name not in new.namelist():
                new.writestr(name, content, squeeze)
    return buffer.getvalue()


def unpickled(data: bytes, draw: random.Random) -> bytes:
    """The pickles of an old file of torch.save, damaged where instructions stand."""
    return data[:15] + draw.choice((flipped, lengths, cut_off))(data[15:], draw)


def rewritten(data: bytes, draw: random.Random) -> bytes:
    """A PNG with correct check sums around a damaged chunk."""
    place, chunks = 8, []
    while place < len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    chosen = draw.randrange(len(chunks))
    kind, content = chunks[chosen]
    if kind == b"tEXt" and draw.random() < 0.7:  # the soft prompt in it, well-formed but for one value
        key, _, text = content.partition(b"\0")
        content = key + b"\0" + base64.b64encode(json.dumps(number(json.loads(base64.b64decode(text)), draw)).encode())
    elif content:
        content = draw.choice((flipped, cut_off, lengths))(content + bytes(70), draw)
    chunks[chosen] = (kind, content)
    parts = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return data[:8] + b"".join(parts)


def damaged(files: list[tuple[str, bytes]], seed: int) -> tuple[str, str, bytes]:
    """What was done, the name of the file, and its content."""
    draw = random.Random(seed)
    name, data = files[seed % len(files)]
    ways: list[Callable[[bytes, random.Random], bytes]] = [flipped, cut_off, lengths]
    ways.append(lambda data, draw: spliced(data, draw, draw.choice(files)[1]))
    if name.endswith(".safetensors"):
        ways += [lied] * 5
    elif data.startswith(b"PK"):
        ways += [repacked] * 5
    elif name.endswith(".png"):
        ways += [rewritten] * 5
    else:
        ways += [unpickled] * 3
    way = draw.choice(ways)
    return way.__name__, name, way(data, draw)


# --- the test -------------------------------------------------------------------------------

_seen: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching:
        return
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if event in FORBIDDEN or writes:
        _seen.append(f"{event} {arguments!r:.200}")


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """What Python does that only code from a file would do: nothing is to be written, started or unpickled."""
    global _watching  # noqa: PLW0603  (an audit hook cannot be taken away, so it is switched)
    if not hasattr(sys, "_hardprompts_watch"):
        sys.addaudithook(_watch)
        sys._hardprompts_watch = True  # type: ignore[attr-defined]
    _seen.clear()
    yield _seen
    _watching = False


def read(path: Path) -> bool:
    """Whether the file was read; FileFormatError is the only other way out."""
    global _watching  # noqa: PLW0603
    _watching = True
    try:
        prompts = read_soft_prompts(path)
    except FileFormatError as error:
        assert len(str(error)) < 2000 and str(error).isprintable(), error
        return False
    finally:
        _watching = False
    assert prompts and all(values.isfinite().all() for prompt in prompts for values in prompt.embeddings.values())
    return True


def test_damaged_files_are_read_or_refused(tmp_path: Path, watched: list[str]) -> None:
    canary = tmp_path / "canary"
    files = originals(canary)
    folder = tmp_path / "files"
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 4, "token_dim": 32, "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    for name, data in files:  # undamaged, and all that is loaded lazily is loaded before it is measured
        (folder / name).write_bytes(data)
        assert read(folder / name) is (name not in ("n.pt", "o.pt", "p.bin")), name
        (folder / name).unlink()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = [0, 0]
    for seed in range(FILES):
        way, name, content = damaged(files, seed)
        path = folder / name
        path.write_bytes(content)
        begin = time.thread_time()
        try:
            outcomes[read(path)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {way} of {name} raised {error!r}") from error
        assert time.thread_time() - begin < MAX_SECONDS, f"seed {seed}: {way} of {name} took too long"
        path.unlink()
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < MAX_GROWTH, f"{growth / 2**20:.0f} MiB"
    assert not watched and not canary.exists()
    # Many are refused, and some damage (in a value, in a name) leaves a file that can be read: both are tested.
    assert min(outcomes) > FILES // 20, outcomes


def test_the_canary_would_be_seen(tmp_path: Path, watched: list[str]) -> None:
    global _watching  # noqa: PLW0603
    originals(tmp_path / "canary")
    _watching = True
    pickle.loads(pickle.dumps(Canary())).close()
    _watching = False
    assert (tmp_path / "canary").exists()
    assert any("pickle.find_class" in entry for entry in watched) and any(entry.startswith("open") for entry in watched)
