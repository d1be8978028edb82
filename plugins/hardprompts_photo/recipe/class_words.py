"""The words of ImageNet's classes: their names, the plain word for what they are a kind of, and where people are.

A person says "dog" of a Border Terrier and "train" of a freight car. The plain word of a class is the nearest thing in
WordNet above it that has a name of `PLAIN_WORDS`.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

from hardprompts.wording import commonness

#: What people call things, between a kind and "animal" or "device".
PLAIN_WORDS = frozenset(
    """
    dog cat bird fish snake lizard turtle frog salamander monkey ape bear fox wolf rabbit spider insect butterfly beetle
    crab lobster shark whale horse cow cattle sheep goat pig swine elephant zebra deer antelope camel duck goose parrot
    owl eagle chicken hen rodent squirrel seal car truck bus train locomotive boat ship airplane aircraft bicycle
    motorcycle wagon cart sled van tractor tank building house church shop store restaurant theater tower bridge fence
    roof castle wall shelter door chair table bed cabinet sofa couch desk bench furniture lamp clock timepiece computer
    keyboard telephone camera screen television printer guitar piano drum flute horn violin ball hat cap helmet mask
    shoe boot skirt coat jacket dress sweater shirt trousers sock glove necktie scarf swimsuit robe underwear clothing
    cup bottle jar glass bowl pot pan spoon knife plate box bag basket bucket barrel bread fruit vegetable food dessert
    soup meat sandwich cake beverage wine coffee dish flower tree mushroom fungus plant mountain beach lake valley
    weapon gun sword tool hammer saw plaything doll towel oven stove toilet sink tub refrigerator mirror curtain rug pen
    umbrella wheel rope chain lock bell flag ski racket bat puzzle book sign statue monument fountain pole person
    """.split()
)
#: How WordNet's word is said.
SAID = {
    "swine": "pig", "fungus": "mushroom", "timepiece": "clock", "beverage": "drink", "plaything": "toy",
    "cattle": "cow", "necktie": "tie", "locomotive": "train", "telephone": "phone",
}  # fmt: skip
#: Of classes that WordNet files under another sense, or under nothing that people say.
PLAIN_WORD_OF = {
    "freight car": "train", "railroad car": "train", "tram": "train", "high-speed train": "train",
    "moped": "motorcycle", "vespa": "motorcycle", "tricycle": "bicycle", "four-poster bed": "bed",
    "CRT monitor": "screen", "monitor": "screen", "television": "tv", "mobile phone": "phone",
    "rotary dial telephone": "phone", "washing machine": "laundry", "microwave oven": "oven", "park bench": "bench",
    "airliner": "airplane", "military aircraft": "airplane", "traffic light": "street", "parking meter": "street",
    "ski": "snow", "bobsleigh": "snow", "snowmobile": "snow", "promontory": "sea",
    "breakwater": "sea", "sandbar": "beach", "plate": "food", "hot dog": "food", "pizza": "food",
    "laptop computer": "computer", "notebook computer": "computer", "desktop computer": "computer",
    "teddy bear": "toy", "vase": "flowers", "plant pot": "plant", "greenhouse": "plants", "umbrella": "rain",
    "parachute": "sky", "baseball player": "baseball", "hay": "farm", "cauldron": "pot", "bathtub": "bathroom",
    "toilet seat": "bathroom", "sink": "bathroom",
}  # fmt: skip
#: Classes whose photographs show a person: clothes that are worn, instruments that are played, sports.
WITH_PEOPLE = frozenset(
    """
    abaya|academic gown|accordion|acoustic guitar|apron|backpack|balance beam|banjo|barbell|barbershop|baseball|
    baseball player|basketball|bassoon|swimming cap|baby bib|tandem bicycle|bikini|bobsleigh|bolo tie|bow tie|bra|
    breastplate|bulletproof vest|canoe|cardigan|cello|mobile phone|cloak|clogs|cornet|cowboy boot|cowboy hat|
    crash helmet|croquet ball|crutch|cuirass|diaper|dog sled|drum|dumbbell|electric guitar|face powder|feather boa|
    flute|football helmet|French horn|fur coat|gas mask or respirator|golf ball|gondola|gown|hair spray|hair dryer|
    hand-held computer|harmonica|harp|hoop skirt|gymnastic horizontal bar|horse-drawn vehicle|jeans|T-shirt|rickshaw|
    kimono|knee pad|lab coat|lifeboat|lipstick|lotion|tights|one-piece bathing suit|maraca|marimba|mask|microphone|
    military uniform|miniskirt|moped|graduation cap|mountain bike|neck brace|oboe|ocarina|overskirt|bullock cart|
    oxygen mask|paddle|pajamas|pan flute|parachute|parallel bars|ping-pong ball|poncho|punching bag|quill|racket|
    rugby ball|sandal|sarong|saxophone|scarf|scuba diver|seat belt|shower cap|ski|sleeping bag|snorkel|snowmobile|
    soccer ball|sock|sombrero|stage|steel drum|stethoscope|stopwatch|stretcher|suit|sunglasses|sunscreen|sweatshirt|
    swim trunks / shorts|tennis ball|torch|trench coat|tricycle|trombone|umbrella|unicycle|vestment|violin|volleyball|
    whistle|Windsor tie
    """.replace("\n", "")
    .replace("|    ", "|")
    .strip()
    .split("|")
)

#: How common a word must be to be said, on the scale of `hardprompts.wording.commonness`.
LEAST_COMMON = 2.5


def class_names() -> list[str]:
    """The 1,000 readable names that open_clip has, read from its file without importing it."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None and spec.submodule_search_locations, "the recipe needs open_clip_torch"
    file = Path(spec.submodule_search_locations[0]) / "zero_shot_metadata.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "IMAGENET_CLASSNAMES":
            return [str(name) for name in ast.literal_eval(node.value)]
    raise ValueError(f"{file} has no IMAGENET_CLASSNAMES")


def cleaned(name: str) -> str:
    """A class's name as it is said: "swim trunks / shorts" -> "swim trunks shorts", "impala (antelope)" likewise."""
    return " ".join(re.sub(r"[()/,]| or ", " ", name).split())


def said_names(plain: Sequence[str]) -> list[str]:
    """How each class is said of a photograph: "tench" is a fish, and an Egyptian Mau an Egyptian Mau cat.

    Names with a word that few people know are the plain word, where there is one; to breeds and other proper names it
    is added, if they do not have it.
    """
    said = []
    for name, word in zip(map(cleaned, class_names()), plain, strict=True):
        rarest = min(map(commonness, re.findall("[a-z]+", name.lower())))
        proper = name[0].isupper() and word and word not in name.lower().split()
        said.append(word if word and rarest < LEAST_COMMON else f"{name} {word}" if proper else name)
    return said


def plain_words(wordnet: Path) -> list[str]:
    """The plain word of each class, "" where there is none; `wordnet` is the folder of WordNet's data.noun."""
    import timm.data

    synsets = _synsets(wordnet / "data.noun")
    ids = Path(timm.data.__file__).parent / "_info" / "imagenet_synsets.txt"
    offsets = [line.strip()[1:] for line in ids.read_text().splitlines() if line.strip()]
    found = []
    for name, offset in zip(class_names(), offsets, strict=True):
        found.append(PLAIN_WORD_OF.get(name) or _nearest(offset, synsets))
    return found


def _nearest(offset: str, synsets: dict[str, tuple[list[str], list[str]]]) -> str:
    level, seen = synsets[offset][1], {offset}
    while level:
        for parent in level:
            for word in synsets[parent][0][:3]:
                if word in PLAIN_WORDS:
                    return SAID.get(word, word)
        seen.update(level)
        level = [up for parent in level for up in synsets[parent][1] if up not in seen]
    return ""


def _synsets(file: Path) -> dict[str, tuple[list[str], list[str]]]:
    """WordNet's nouns: offset -> (words, offsets of what is above)."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue  # the license
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        pointers = fields[5 + 2 * count :]
        above = [pointers[i + 1] for i in range(0, len(pointers), 4) if pointers[i] in ("@", "@i")]
        found[fields[0]] = ([fields[4 + 2 * i].replace("_", " ") for i in range(count)], above)
    return found
