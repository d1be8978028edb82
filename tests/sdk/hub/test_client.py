"""Everything that can go wrong on the way to the Hub and back, in one clear error each, without any token in it."""

import io
import json
import logging
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hub_samples import PROMPT, same, soft
from huggingface_hub import constants
from loopback_hub import LoopbackHub, forget_sessions, point_at

from hardprompts import FileFormatError, HardPrompt, HubError, SoftPrompt, sharing


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    forget_sessions()


def cached(tmp_path: Path) -> set[str]:
    """What the cache shows to readers."""
    return {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}


def test_offline_the_cache_is_read(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    sharing.push("alice/both", PROMPT, soft())
    HardPrompt.from_pretrained("alice/both")
    SoftPrompt.from_pretrained("alice/both")
    asked = len(hub.log)
    assert HardPrompt.from_pretrained("alice/both", local_files_only=True) == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both", local_files_only=True), soft())
    offline(monkeypatch)
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())
    assert len(hub.log) == asked
    with pytest.raises(HubError, match="offline mode is on; unset HF_HUB_OFFLINE"):
        PROMPT.push_to_hub("alice/both")
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="not in the cache, and offline mode is on"):
            kind.from_pretrained("alice/never-seen")


def test_what_is_not_in_the_cache_says_so(hub: LoopbackHub) -> None:
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="not in the cache; leave local_files_only out"):
            kind.from_pretrained("alice/never-seen", local_files_only=True)


def test_a_gated_repository_says_where_to_ask(hub: LoopbackHub) -> None:
    files = hub.create("bob/gated", gated=True).files
    files |= {"prompt.json": PROMPT.to_json().encode(), "learned_embeds.safetensors": b"embeddings"}
    with pytest.raises(HubError, match=rf"gives access on request; ask for it at {hub.url}/bob/gated"):
        HardPrompt.from_pretrained("bob/gated")
    with pytest.raises(HubError, match="gives access on request"):
        SoftPrompt.from_pretrained("bob/gated")


def test_an_answer_that_is_none_of_a_hubs(hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.fail("POST", "validate-yaml", "page")  # of the network that one has to log in to, say
    with pytest.raises(HubError, match="none of a Hub's"):
        PROMPT.push_to_hub("alice/tiger")
    with pytest.raises(ValueError, match="commit_message"):
        PROMPT.push_to_hub("alice/tiger", commit_message=" ")
    assert len(hub.repos["alice/tiger"].commits) == 1


def test_a_repository_without_a_prompt_says_so(hub: LoopbackHub) -> None:
    hub.create("bob/empty")
    with pytest.raises(HubError, match=r"'bob/empty': it has no prompt\.json"):
        HardPrompt.from_pretrained("bob/empty")
    with pytest.raises(HubError, match="holds no soft prompt"):
        SoftPrompt.from_pretrained("bob/empty")
    with pytest.raises(FileFormatError, match="no prompt is in"):
        sharing.pull("bob/empty")


@pytest.mark.parametrize(
    "token, why", [("hf_expired", "does not accept the token"), ("hf_alice_read", "right to write")]
)
def test_a_token_that_may_not_write(token: str, why: str, hub: LoopbackHub) -> None:
    with pytest.raises(HubError, match=why):
        PROMPT.push_to_hub("alice/new", token=token)
    hub.create("alice/tiger")
    with pytest.raises(HubError, match=why):
        PROMPT.push_to_hub("alice/tiger", token=token)
    with pytest.raises(HubError, match="right to write"):
        PROMPT.push_to_hub("bob/new")
    assert set(hub.repos) == {"alice/tiger"} and len(hub.repos["alice/tiger"].commits) == 1


def test_nobody_is_logged_in(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with pytest.raises(HubError, match="hf auth login"):
        PROMPT.push_to_hub("alice/tiger")
    assert not hub.repos


@pytest.mark.parametrize(
    "status, why",
    [
        (400, "does not accept it: it went wrong"),
        (409, "conflict .*push again"),
        (412, "somebody changed"),
        (413, "too large"),
        (429, "fewer requests"),
        (500, "the Hub has trouble .status 500"),
        (418, "the Hub answers it went wrong"),
    ],
)
def test_each_status_is_one_clear_error(status: int, why: str, hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.fail("POST", "/commit/", status, times=10)
    with pytest.raises(HubError, match=why) as caught:
        PROMPT.push_to_hub("alice/tiger")
    assert str(caught.value).startswith("pushing to 'alice/tiger': ") and "\n" not in str(caught.value)
    assert len(hub.repos["alice/tiger"].commits) == 1


@pytest.mark.parametrize(
    "method, path",
    [("GET", "^/api/models"), ("POST", "preupload"), ("POST", "batch"), ("PUT", "^/lfs"), ("POST", "/commit/")],
)
def test_a_push_that_breaks_off_commits_nothing(method: str, path: str, hub: LoopbackHub) -> None:
    hub.create("alice/style")
    hub.fail(method, path, "close", times=10)
    with pytest.raises(HubError, match="the connection broke off.*try again"):
        soft().push_to_hub("alice/style")
    assert set(hub.repos["alice/style"].files) == {".gitattributes"}
    hub.faults.clear()
    soft().push_to_hub("alice/style")
    assert same(SoftPrompt.from_pretrained("alice/style"), soft())


@pytest.mark.parametrize(
    "method, kind",
    [("HEAD", "close"), ("HEAD", 500), ("HEAD", 503), ("GET", "close"), ("GET", "half"), ("GET", 500), ("GET", 503)],
)
def test_a_pull_that_breaks_off_leaves_nothing_half_done(
    method: str, kind: Any, hub: LoopbackHub, tmp_path: Path
) -> None:
    sharing.push("alice/both", PROMPT, soft())
    hub.fail(method, "/resolve/", kind, times=100)
    for read in (HardPrompt.from_pretrained, SoftPrompt.from_pretrained):
        with pytest.raises(HubError, match=r"try again|check the connection"):
            read("alice/both")
    assert not cached(tmp_path)
    hub.faults.clear()
    assert HardPrompt.from_pretrained("alice/both") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/both"), soft())


def test_a_hub_that_is_not_there(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    point_at(monkeypatch, "http://127.0.0.1:1")
    with pytest.raises(HubError, match="the connection broke off"):
        PROMPT.push_to_hub("alice/tiger")
    for kind in (HardPrompt, SoftPrompt):
        with pytest.raises(HubError, match="the Hub cannot be reached"):
            kind.from_pretrained("alice/tiger")


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(FileFormatError, match="empty"):
        SoftPrompt.from_pretrained(tmp_path / "x")


@pytest.mark.parametrize("repo_id", ["tiger", "a/b/c", "a b/c", "../x", "alice/", "a/b..c", "https://x/y", "a/b\n"])
def test_what_is_no_repository(repo_id: str, hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # so that "../x" is nothing
    with pytest.raises(HubError, match="not a repository; write it as user/name"):
        PROMPT.push_to_hub(repo_id)
    with pytest.raises(FileFormatError, match=r"no prompt\.json in"):
        HardPrompt.from_pretrained(repo_id)
    with pytest.raises(FileFormatError, match="does not exist"):
        SoftPrompt.from_pretrained(repo_id)
    assert not hub.log


def test_a_folder_comes_before_the_hub(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    PROMPT.save_pretrained("alice/tiger")
    soft().save_pretrained("alice/style")
    assert HardPrompt.from_pretrained("alice/tiger") == PROMPT
    assert same(SoftPrompt.from_pretrained("alice/style"), soft())
    assert not hub.log


SECRET = "hf_q8zTsecretsecretsecret"


@pytest.mark.parametrize("token", [SECRET, f"{SECRET}\n", f"{SECRET} x", f"{SECRET}é"])
def test_no_token_is_ever_shown(token: str, hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    hub.create("alice/tiger")
    hub.fail("POST", "/commit/", 400)
    screens = io.StringIO()
    with redirect_stdout(screens), redirect_stderr(screens):
        for action in (PROMPT.push_to_hub, HardPrompt.from_pretrained, SoftPrompt.from_pretrained):
            with pytest.raises(HubError) as caught:
                action("alice/tiger", token=token)  # type: ignore[operator]
            shown = "".join(traceback.format_exception(caught.value))
            assert SECRET not in shown + repr(caught.value) + screens.getvalue()
    assert SECRET not in caplog.text
    assert hub.authorizations or token != SECRET, "the hub saw the token, and nobody else did"
    assert not any(SECRET in entry for entry in hub.log)


def test_a_hub_that_repeats_the_token_does_not_get_it_shown(hub: LoopbackHub) -> None:
    hub.create("alice/tiger")
    hub.tokens[SECRET] = ("alice", True)
    hub.fail("POST", "/commit/", 400, **{"X-Error-Message": f"bad header Bearer {SECRET}"})
    with pytest.raises(HubError, match=r"bad header Bearer \*\*\*") as caught:
        PROMPT.push_to_hub("alice/tiger", token=SECRET)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"format": "tensor"},
        {"format": "../x"},
        {"format": ["diffusers"]},
        {"name": 5},
        {"step": "many"},
        {"step": 1.5},
        {"step": True},
        {"base_models": "one"},
        {"base_models": [1]},
        {"metadata": []},
    ],
)
def test_a_damaged_description_is_one_clear_error(change: dict[str, Any], tmp_path: Path) -> None:
    soft().save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FileFormatError, match=r"soft_prompt\.json"):
        SoftPrompt.from_pretrained(tmp_path)


@pytest.mark.parametrize("name, clean", [("../../x", ".._.._x"), ("a\x1b[2J", "a[2J")])
def test_a_name_that_could_do_harm_is_cleaned_when_it_is_read(name: str, clean: str, tmp_path: Path) -> None:
    soft().save_pretrained(tmp_path)
    path = tmp_path / "soft_prompt.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
    assert SoftPrompt.from_pretrained(tmp_path).name == clean


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_no_json(content: bytes, tmp_path: Path) -> None:
    soft().save_pretrained(tmp_path)
    (tmp_path / "soft_prompt.json").write_bytes(content)
    with pytest.raises(FileFormatError, match=r"soft_prompt\.json"):
        SoftPrompt.from_pretrained(tmp_path)
