"""Where on this machine the model of a saved prompt lies: a file of its own beside the prompt, which is never pushed.

So every other file in the folder may be shared as it is, and what was saved here opens its model again here.
"""

from pathlib import Path

from hardprompts.atomic import json_text, write_files_atomically
from hardprompts.causes.standins import read_json
from hardprompts.errors import FileFormatError
from hardprompts.hub.machine import model_label

PLACES_FILE = "this_machine.json"

_ABOUT = "Where the model lies on this machine. A push leaves this file out; do so too when you share the folder."


def write_with_place(path: Path, text: str, model: str) -> Path:
    """Writes a file that names a model by its label, and where the label is less than the name, `this_machine.json`.

    An older `this_machine.json` is removed where there is nothing for it to say.
    """
    place = path.with_name(PLACES_FILE)
    contents = {path: text.encode()}
    if model_label(model) != model:
        told = {"about": _ABOUT, "models": {model_label(model): model}}
        contents[place] = json_text(told).encode()
    write_files_atomically(contents)
    if place not in contents:
        place.unlink(missing_ok=True)
    return path


def model_here(folder: Path, label: str) -> str:
    """The name of the model that a saved label stands for on this machine; the label itself if nothing says."""
    try:
        name = read_json(folder / PLACES_FILE)["models"][label]
    except (OSError, FileFormatError, KeyError, TypeError):
        return label  # which is what the prompt is shown with anywhere else
    return name if isinstance(name, str) and model_label(name) == label else label
