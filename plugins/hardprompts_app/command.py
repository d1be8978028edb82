"""`hardprompts app`: the page in the browser."""

from typing import Annotated

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import Device, Dtype, Model, Threads, torch_dtype
from hardprompts.cli.screen import clear_errors, say

LOOPBACK = "127.0.0.1"


def app(
    model: Model = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Its port (default: the first free one from 7860 on).")
    ] = None,
    host: Annotated[str, typer.Option(help="The address it listens on; others than this let machines in.")] = LOOPBACK,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
    share: Annotated[bool, typer.Option("--share", help="Also make a public link, through Gradio's servers.")] = False,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = None,
) -> None:
    """Open a page in the browser: images, embeddings, long prompts and folders become prompts.

    It listens on this machine alone, asks nothing of the network and keeps nothing on the disk. Ctrl-C ends it.
    """
    with clear_errors():
        from hardprompts_app.server import Place, serve
        from hardprompts_app.work import Models

        screen.use_threads(threads, device)
        place = Place(host, port, share)
        if not place.is_private:
            say(
                "warning: whoever reaches this page can use this machine's models; the tab Folder is left out", "yellow"
            )
        serve(Models(model, device, torch_dtype(dtype), private=place.is_private), place, browser=not no_browser)
