"""Starts the page: on loopback, without analytics, and with uploads in a folder that goes when it ends."""

import contextlib
import dataclasses
import importlib
import inspect
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hardprompts.cli.screen import out, say
from hardprompts.errors import MissingExtra
from hardprompts_app.command import LOOPBACK
from hardprompts_app.work import Models

#: What one upload may be.
MOST_BYTES = 20 * 2**20

#: Seconds after which uploads are looked at, and their age at which they go, while the page is open.
CLEANING = (300, 3600)

_LOCAL_NAMES = (LOOPBACK, "localhost", "::1")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the page is: an address, a port (None: the first free one), and whether a public link leads to it."""

    host: str = LOOPBACK
    port: int | None = None
    share: bool = False

    @property
    def is_private(self) -> bool:
        """Whether this machine's user alone can reach it."""
        return self.host in _LOCAL_NAMES and not self.share


def open_gradio() -> Any:
    """Gradio, which from here on neither counts its uses nor asks for newer versions.

    Raises:
        MissingExtra: it is not installed.
    """
    # Gradio reads them when it is imported, and its clients when they are used.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise MissingExtra("the page of `hardprompts app`", "app", error) from error


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for what is uploaded, which is deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="hardprompts-app-", ignore_cleanup_errors=True) as folder:
        before = os.environ.get("GRADIO_TEMP_DIR")
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["GRADIO_TEMP_DIR"]
            else:
                os.environ["GRADIO_TEMP_DIR"] = before


def launch(models: Models, place: Place, *, browser: bool = False) -> Any:
    """Starts the page and returns it; `close()` ends it.

    Args:
        browser: open it in a browser.

    Raises:
        MissingExtra: Gradio is not installed.
        OSError: the port is taken, or no port is free.
    """
    open_gradio()
    from hardprompts_app.page import LOOKS, build

    page = build(models)
    page.queue(default_concurrency_limit=4, max_size=64)
    page.launch(
        server_name=place.host,
        server_port=place.port,
        share=place.share,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        max_file_size=MOST_BYTES,
        app_kwargs={"middleware": _own_names_only()} if place.is_private else {},
        footer_links=["api"],
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        **_no_history(page),
        **LOOKS,
    )
    return page


def _no_history(page: Any) -> dict[str, bool]:
    """What keeps Gradio from keeping a history of inputs and results; before 6.24 it has none, and no name for it."""
    return {"run_history": False} if "run_history" in inspect.signature(page.launch).parameters else {}


def serve(models: Models, place: Place, browser: bool = True) -> None:
    """Shows the page until Ctrl-C.

    Raises: as `launch`.
    """
    with own_folder():
        page = launch(models, place, browser=browser)
        say(f"the page is at {page.local_url}", console=out)
        if place.share:
            say(f"and for everybody at {page.share_url}", console=out)
        threading.Thread(target=models.warm, daemon=True).start()
        page.block_thread()


def serve_space() -> None:
    """Shows the page as a Space of the Hugging Face Hub, which says by variables where it listens."""
    host = os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0")
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    serve(Models(private=False), Place(host, port), browser=False)


def _own_names_only() -> list[Any]:
    """Refuses requests that reached this machine by another name: pages of strangers whose name leads here."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    return [Middleware(TrustedHostMiddleware, allowed_hosts=[LOOPBACK, "localhost", "[::1]"])]
