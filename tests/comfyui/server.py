"""A real ComfyUI in a process of its own, on the CPU, and what its browser would see of it."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
#: A busy machine takes longer: COMFYUI_START_SECONDS.
START_SECONDS = float(os.environ.get("COMFYUI_START_SECONDS", "240"))
#: The longest that a workflow may take, on the same machine.
RUN_SECONDS = 3 * START_SECONDS


def comfyui_path() -> Path | None:
    """The checkout that COMFYUI_PATH names, or None."""
    path = os.environ.get("COMFYUI_PATH", "")
    return Path(path) if path and (Path(path) / "main.py").is_file() else None


def frontend() -> list[str]:
    """What makes ComfyUI serve the browser's side in COMFYUI_FRONTEND, the folder of a comfyui-frontend-package."""
    folder = os.environ.get("COMFYUI_FRONTEND", "")
    return ["--front-end-root", str(Path(folder) / "static")] if folder else []


def comfyui_python() -> str:
    """The Python that runs ComfyUI: COMFYUI_PYTHON, or this one."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


#: Before any program in `in_comfyui`: `asked`, ComfyUI's module of text encoders, and how it reads prompts.
PARSER = """
import json, sys
sys.argv = sys.argv[:1]
from comfy.cli_args import args
args.cpu = True  # before anything asks for a graphics card
from comfy import sd1_clip

def pieces(text):
    parsed = sd1_clip.token_weights(sd1_clip.escape_important(text), 1.0)
    return [(sd1_clip.unescape_important(part), weight) for part, weight in parsed]

asked = json.load(sys.stdin)
"""


def in_comfyui(program: str, asked: Any) -> Any:
    """What a program prints as JSON that ComfyUI's Python runs in its checkout, behind `PARSER`."""
    run = subprocess.run(
        [comfyui_python(), "-c", PARSER + program],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
        cwd=comfyui_path(),
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of one workflow.

    Attributes:
        outputs: what output nodes sent to the browser, by node.
        messages: everything that the websocket said, in order; binary ones as ("binary", kind, bytes).
        error: the error as ComfyUI shows it, or None.
        executed: the nodes that ran, cached ones left out.
        seconds: from the first message to the last.
    """

    outputs: dict[str, Any]
    messages: list[tuple[str, Any]]
    error: dict[str, Any] | None
    executed: tuple[str, ...]
    seconds: float
    interrupted: bool

    def texts(self) -> list[str]:
        """The texts that nodes showed while they ran."""
        found = []
        for kind, data in self.messages:
            if kind == "binary" and int.from_bytes(data[:4], "big") == 3:
                length = int.from_bytes(data[4:8], "big")
                found.append(data[8 + length :].decode())
        return found


class Server:
    """A running server."""

    def __init__(self, port: int, log: Path) -> None:
        self.url, self.log = f"http://127.0.0.1:{port}", log
        self.start_seconds = 0.0

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        """The JSON that a path answers; of an error its JSON too."""
        request = urllib.request.Request(
            self.url + path, json.dumps(data).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
        return json.loads(text) if text else None

    def run(self, workflow: dict[str, Any], interrupt_after: int | None = None) -> Run:
        """Runs a workflow in ComfyUI's API format.

        Args:
            interrupt_after: presses the interrupt button after so many progress messages.
        """
        import asyncio

        return asyncio.run(asyncio.wait_for(self._run(workflow, interrupt_after), RUN_SECONDS))

    async def _run(self, workflow: dict[str, Any], interrupt_after: int | None) -> Run:
        import aiohttp

        client = uuid.uuid4().hex
        messages: list[tuple[str, Any]] = []
        executed: list[str] = []
        outputs: dict[str, Any] = {}
        error, interrupted, progressed, started = None, False, 0, time.monotonic()
        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self.url}/ws?clientId={client}") as socket:
            answer = await session.post(f"{self.url}/prompt", json={"prompt": workflow, "client_id": client})
            queued = await answer.json()
            if "prompt_id" not in queued:
                return Run({}, [], queued, (), 0.0, False)
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY:
                    messages.append(("binary", message.data))
                    continue
                kind, data = json.loads(message.data)["type"], json.loads(message.data)["data"]
                messages.append((kind, data))
                if kind == "executing" and data.get("node"):
                    executed.append(data["node"])
                if kind == "executed":
                    outputs[data["node"]] = data["output"]
                if kind == "progress":
                    progressed += 1
                    if progressed == interrupt_after:
                        self.interrupted_at = time.monotonic()
                        await session.post(f"{self.url}/interrupt")
                if kind in ("execution_error", "execution_interrupted", "execution_success"):
                    error = data if kind == "execution_error" else None
                    interrupted = kind == "execution_interrupted"
                    self.ended_at = time.monotonic()
                    break
        return Run(outputs, messages, error, tuple(executed), time.monotonic() - started, interrupted)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(base: Path, *arguments: str) -> Iterator[Server]:
    """A server whose models, inputs, outputs and custom nodes are in `base`."""
    comfyui = comfyui_path()
    assert comfyui is not None
    for name in ("input", "output", "models", "custom_nodes", "user"):
        (base / name).mkdir(parents=True, exist_ok=True)
    port, log = free_port(), base / "server.log"
    command = [
        comfyui_python(), str(comfyui / "main.py"), "--cpu", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(base), "--disable-auto-launch", "--disable-api-nodes", *frontend(), *arguments,
    ]  # fmt: skip
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=base, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    server = Server(port, log)
    try:
        started = time.monotonic()
        end = started + START_SECONDS
        while True:
            try:
                server.get("/system_stats")
                server.start_seconds = time.monotonic() - started
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"ComfyUI did not start:\n{log.read_text()[-4000:]}") from error
                time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
