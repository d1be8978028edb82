"""The page on loopback, as Gradio's client and strangers see it."""

import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra `app` is not installed")

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from hardprompts.errors import SearchError
from hardprompts.search.protocol import SearchProgress
from hardprompts.testing import toy_backend
from hardprompts_app.server import Place, launch, own_folder
from hardprompts_app.work import Models

FAST = {"num_tokens": 4, "max_steps": 60, "seed": 0}
LOOPBACK = {"127.0.0.1", "::1", "localhost", None, ""}


@pytest.fixture(scope="module")
def asked() -> Iterator[list[str]]:
    """The hosts beyond this machine that the process connects to, or asks the address of."""
    found: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        connect, resolve = socket.socket.connect, socket.getaddrinfo

        def watched_connect(self: socket.socket, address: Any) -> None:
            if isinstance(address, tuple) and address[0] not in LOOPBACK:
                found.append(str(address[0]))
            connect(self, address)

        def watched_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host not in LOOPBACK:
                found.append(str(host))
            return resolve(host, *args, **kwargs)

        patch.setattr(socket.socket, "connect", watched_connect)
        patch.setattr(socket, "getaddrinfo", watched_resolve)
        yield found


@pytest.fixture(scope="module")
def uploads(asked: list[str]) -> Iterator[Path]:
    with own_folder() as folder:
        yield folder
    assert not folder.exists(), "what was uploaded was kept"


@pytest.fixture(scope="module")
def url(uploads: Path) -> Iterator[str]:
    from hardprompts import hookimpl, plugins

    class Toy:
        backends = hookimpl(lambda self: {"toy": toy_backend})

    plugins.register(Toy(), "toy")
    page = launch(Models("toy"), Place())
    yield page.local_url
    page.close()
    plugins.unregister("toy")


@pytest.fixture(scope="module")
def client(url: str, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(url, verbose=False, download_files=str(tmp_path_factory.mktemp("client")))


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Searches that only their callback ends; set when it has."""
    ended = threading.Event()

    def invert(self: Any, images: Any, callback: Any, **options: Any) -> Any:
        while not callback(SearchProgress(1, None, 0.1, 1, (None,))):
            time.sleep(0.01)
        ended.set()
        raise SearchError("stopped")

    monkeypatch.setattr("hardprompts.inversion.inverter.PromptInverter.invert", invert)
    return ended


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    toy_backend().image_encoder.picture("red house near river").save(tmp_path / "a.png")  # type: ignore[union-attr]
    return tmp_path / "a.png"


def test_programs_see_six_endpoints_and_nothing_of_the_page(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/invert", "/shorten", "/inspect", "/score", "/edit", "/interactions"}
    names = [each["parameter_name"] for each in endpoints["/invert"]["parameters"]]
    assert names == ["images", "model", "together", "options"]


def test_an_image_becomes_a_prompt(client: Client, picture: Path) -> None:
    from hardprompts import HardPrompt, PromptInverter

    answer = client.predict([handle_file(picture)], options=FAST, api_name="/invert")
    (values,) = answer["prompts"]
    found = PromptInverter(toy_backend()).invert(picture, progress=False, **FAST)  # type: ignore[arg-type]
    assert HardPrompt.from_dict(values).text == found.text
    assert client.predict(found.text, handle_file(picture), api_name="/score") == pytest.approx(found.score, abs=1e-4)


def test_fluency_evidence_and_editable_words_are_asked_for_among_the_options(client: Client, picture: Path) -> None:
    options = {**FAST, "fluency_model": "emoji:emoji-lm", "evidence": True, "editable": True}
    answer = client.predict([handle_file(picture)], options=options, api_name="/invert")
    assert answer["prompts"][0]["fluency"] < 0 and answer["prompts"][0]["evidence"]


def test_a_long_prompt_becomes_a_short_one(client: Client) -> None:
    options = {"num_tokens": 3, "max_steps": 20, "seed": 0}
    values = client.predict("red house near the river at night", options=options, api_name="/shorten")
    assert values["text"] and "faithfulness" in values["provenance"]


def test_an_embedding_is_described(client: Client, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"emb_params": toy_backend().vocabulary.table[5:7].clone()}, tmp_path / "x.safetensors")
    answer = client.predict(handle_file(tmp_path / "x.safetensors"), api_name="/inspect")
    assert any("2 tokens" in line for line in answer["soft_prompts"][0]["sentences"])


def test_a_word_is_exchanged_and_what_depends_is_told(client: Client, picture: Path) -> None:
    answer = client.predict("red house river", "house", "boat", api_name="/edit")
    assert answer["prompt"]["text"] == "red boat river" and [one["phrase"] for one in answer["others"]] == [
        "red",
        "river",
    ]
    told = client.predict("red house", handle_file(picture), api_name="/interactions")
    assert told["interactions"]["phrases"] == ["red", "house"]
    with pytest.raises(AppError, match="did you mean 'house'"):
        client.predict("red house", "hous", "boat", api_name="/edit")


def test_the_code_of_the_page_in_the_docs_works(
    url: str, tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import save_file

    picture.rename(tmp_path / "fox.png")
    save_file({"emb_params": toy_backend().vocabulary.table[5:7].clone()}, tmp_path / "style.safetensors")
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[3] / "docs" / "app.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    known: dict[str, Any] = {}
    exec(code.replace("http://127.0.0.1:7860", url).replace("Client(", "Client(verbose=False, src="), known)
    assert known["similarity"] == pytest.approx(known["prompt"]["score"], abs=1e-4)
    assert "2 tokens" in capsys.readouterr().out


def test_mistakes_are_one_line(client: Client, tmp_path: Path, picture: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    for arguments, message in (
        (([handle_file(broken)],), "broken.jpg"),
        (([],), "no image yet"),
        (([handle_file(picture)], "no-such:model"), "no-such"),
        (([handle_file(picture)], "toy", False, {"sed": 1}), "did you mean 'seed'"),
    ):
        with pytest.raises(AppError, match=message) as caught:
            client.predict(*arguments, api_name="/invert")
        assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_a_cancelled_call_ends_its_search(client: Client, picture: Path, endless: threading.Event) -> None:
    job = client.submit([handle_file(picture)], options={**FAST, "max_steps": 10**7}, api_name="/invert")
    end = time.monotonic() + 30
    while not job.outputs() and time.monotonic() < end:
        time.sleep(0.05)
    assert job.outputs()[0]["doing"]
    job.cancel()
    assert endless.wait(10)


def test_the_page_is_for_this_machine_alone(url: str) -> None:
    assert url.startswith("http://127.0.0.1:")
    request = urllib.request.Request(url, headers={"Host": "stranger.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400


def test_the_page_names_no_other_host_to_load_from(url: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as answer:
        text = answer.read().decode()
    assert "googleapis" not in text and "cdnjs" not in text and "hardprompts" in text


def test_a_file_of_more_than_20_megabytes_is_refused(url: str, tmp_path: Path) -> None:
    boundary = "x" * 20
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + bytes(21 * 2**20) + f"\r\n--{boundary}--\r\n".encode()
    request = urllib.request.Request(
        f"{url.rstrip('/')}/gradio_api/upload", body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 413


def test_nothing_was_asked_of_the_network(client: Client, asked: list[str]) -> None:
    assert client.view_api(return_format="dict")
    assert not asked
