"""`hardprompts decoder`: a network that writes prompts for one model, trained on texts alone."""

import math
from pathlib import Path
from typing import Annotated

import typer

from hardprompts.cli import screen
from hardprompts.cli.options import Device, Model, Threads
from hardprompts.cli.screen import clear_errors, out, say, stdout_kept

Repository = Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository on the Hub.")]

decoder = typer.Typer(
    help="Train or share a decoder: a small network that writes prompts for one model in milliseconds.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@decoder.callback()
def _group() -> None:
    """Train or share a decoder: a small network that writes prompts for one model in milliseconds."""


@decoder.command()
def train(
    texts: Annotated[
        list[Path], typer.Option("--texts", metavar="FILE", help="Texts, one a line; repeat the option for more files.")
    ],
    save: Annotated[Path, typer.Option(metavar="DIR", help="Where the decoder is written.")],
    model: Model = None,
    pictures: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A few pictures of the kind to be inverted: they tell how far pictures are from texts.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of training (default: 4000).")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Number of texts in a step (default: 256).")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The highest learning rate (default: 0.002).")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Leave out texts with more tokens (default: 77).")] = None,
    noise: Annotated[
        float | None, typer.Option(help="Length of the noise on the features (default: measured, or 1).")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Width of the network (default: 192).")] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of the network (default: 3).")] = None,
    heads: Annotated[int | None, typer.Option(help="Heads of its attention (default: 6).")] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")] = False,
    seed: Annotated[int | None, typer.Option(help="A different seed gives another decoder (default: 0).")] = None,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Train a decoder on texts alone, with the text tower of a model.

    The same command goes on with a training that was interrupted, as if it had not been.
    """
    numbers = {
        "steps": steps, "batch_size": batch_size, "learning_rate": learning_rate, "max_tokens": max_tokens,
        "noise": noise, "width": width, "layers": layers, "heads": heads, "seed": seed,
    }  # fmt: skip
    chosen = {name: value for name, value in numbers.items() if value is not None}
    with clear_errors():
        from tqdm.auto import tqdm

        from hardprompts.cli.invert import open_model
        from hardprompts.wording import phrases_in
        from hardprompts_decoder.training import TrainingOptions
        from hardprompts_decoder.training import train as trained

        options = TrainingOptions(bf16=bf16, **chosen)  # type: ignore[arg-type]  # each is of its own type
        lines = (line for path in texts for line in phrases_in(path))
        with stdout_kept():
            screen.use_threads(threads, device)
            backend = open_model(model, device, None)
            seen = None
            if pictures is not None:
                from hardprompts.images import list_folder, load_images

                seen = backend.encode_images(load_images(list_folder(pictures).files))
            with tqdm(unit="step", disable=None) as bar:

                def show(what: str, done: int, total: int, loss: float) -> None:
                    bar.set_description(what if math.isnan(loss) else f"{what}, loss {loss:.3f}")
                    bar.total, bar.n = total or None, done
                    bar.refresh()

                trained(backend, lines, save, options, pictures=seen, progress=show)
        say(f"saved {save}; use it with --proposer decoder:{save}", "dim")


@decoder.command()
def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `hardprompts decoder train` wrote.")],
    repo_id: Repository,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Who may see a new repository (default: everybody).")
    ] = None,
    message: Annotated[str, typer.Option("--message", "-m", help="What the commit says.")] = "Upload with hardprompts",
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Propose it as a pull request.")] = False,
    revision: Annotated[str | None, typer.Option(help="A branch (default: main).")] = None,
    license: Annotated[str | None, typer.Option(help="Its license on the card, as the Hub writes it: cc0-1.0.")] = None,
) -> None:
    """Put a decoder on the Hub, in one commit: its weights, its settings and a card.

    The token is the one that `hf auth login` stored, or HF_TOKEN.
    """
    with clear_errors():
        from hardprompts_decoder.files import Decoder

        pushed = Decoder.load(folder).push_to_hub(
            repo_id, private=private, commit_message=message, create_pr=create_pr, revision=revision, license=license
        )
        if not pushed.changed:
            say("it is there already, and nothing was committed", "dim")
        say(pushed.url, console=out)


@decoder.command()
def pull(
    repo_id: Repository,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the decoder is written.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit (default: main).")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Read what was downloaded before.")] = False,
) -> None:
    """Write the decoder of a repository into a folder.

    A search reads it without that, too: --proposer decoder:USER/NAME.
    """
    with clear_errors():
        from hardprompts.hub.client import check_repo_id
        from hardprompts_decoder.files import Decoder

        check_repo_id(repo_id)
        found = Decoder.from_pretrained(repo_id, revision=revision, local_files_only=offline)
        found.save(folder)
        say(f"saved {folder}; use it with --proposer decoder:{folder}", "dim")
