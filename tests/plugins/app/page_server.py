"""The page in a process of its own, and a browser that reaches nothing but it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 240.0

#: The page on a port, with an uploads' folder below TMPDIR; the arguments are those of the command. Ctrl-C ends it, also
#: where the tests run in the background and their processes would not hear of it.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from hardprompts_app.command import app; import typer; typer.run(app)"
)


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[str]:
    """The address of the page, started with `folder` for everything temporary; ended as Ctrl-C does."""
    port, log = free_port(), folder / "log.txt"
    command = [sys.executable, "-c", START, "--port", str(port), "--no-browser", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"}
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, env=environment)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(url, process, log)
            yield url
        finally:
            process.send_signal(2)  # SIGINT
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                answer.read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"the page did not start: {log.read_text(encoding='utf-8')}")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, without a network beyond this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu"],
        )
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Any, url: str, **options: Any) -> Any:
    """The page in a tab of its own; `asked_elsewhere` has what it asked of others, which was refused."""
    context = browser.new_context(
        **{"viewport": {"width": 1280, "height": 900}, "permissions": ["clipboard-read", "clipboard-write"], **options}
    )
    page = context.new_page()
    page.asked_elsewhere, page.errors = [], []

    def route(each: Any) -> None:
        if each.request.url.startswith((url, "data:", "blob:")):
            each.continue_()
        else:
            page.asked_elsewhere.append(each.request.url)
            each.abort()

    context.route("**/*", route)
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.set_default_timeout(60_000)
    page.goto(url)
    page.get_by_role("button", name="Find the prompt").wait_for()
    return page
