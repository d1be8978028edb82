"""COCO's 80 classes in the words that people use: which of them a text names.

A word names a class if it is a name of it or of a kind of it ("beagle" a dog, "goalkeeper" a person, "sofa" a couch),
in the singular or plural. What a thing belongs to, stands in or is made of does not name it ("bathroom" no sink,
"fruit" no apple, "tennis" no racket). Phrases go before their words: a hot dog is no dog, a cable car no car.
"""

import functools
import re

_WORD = re.compile(r"[a-z]+")

#: Names of each class beside its own; an underscore joins the words of a phrase.
NAMES: dict[str, str] = {
    "person": (
        "people man woman boy girl child kid baby toddler infant adult guy lady gentleman human crowd pedestrian "
        "player skier surfer snowboarder skateboarder rider cyclist bicyclist biker motorcyclist jockey swimmer diver "
        "golfer batter hitter pitcher catcher umpire referee goalkeeper goalie ballplayer footballer athlete "
        "sportsman runner jogger climber hiker skater dancer teenager teen youth student pupil teacher worker farmer "
        "fisherman chef waiter waitress bartender baker butcher soldier officer policeman policewoman cop fireman "
        "firefighter guard sailor pilot driver passenger tourist traveler businessman businesswoman bride bridegroom "
        "groom couple family mother father mom dad daughter son brother sister grandmother grandfather husband wife "
        "cowboy performer musician guitarist singer actor actress artist photographer reporter spectator audience "
        "shopper customer chap dude gal female male scuba_diver parent grandma grandpa"
    ),
    "bicycle": "bike tandem",
    "car": (
        "automobile auto sedan convertible limousine limo taxi taxicab cab jeep minivan van coupe hatchback roadster "
        "suv station_wagon beach_wagon"
    ),
    "motorcycle": "motorbike moped scooter motor_bike bike harley",
    "airplane": "aeroplane plane aircraft airliner jet jetliner biplane warplane airbus boeing",
    "bus": "minibus schoolbus trolleybus double_decker omnibus",
    "train": (
        "locomotive railcar tram streetcar trolley freight_car passenger_car railroad_car railway_car rail_car "
        "train_car boxcar"
    ),
    "truck": "lorry pickup firetruck fire_engine van trailer_truck",
    "boat": (
        "ship canoe kayak ferry ferryboat yacht sailboat sailing_boat speedboat motorboat gondola rowboat lifeboat "
        "catamaran trimaran schooner dinghy barge houseboat steamboat tugboat ocean_liner"
    ),
    "traffic light": "traffic_signal stoplight stop_light",
    "fire hydrant": "hydrant fireplug",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": (
        "sparrow robin gull seagull duck duckling goose gosling swan eagle hawk falcon owl parrot macaw cockatoo "
        "parakeet budgie pigeon dove heron egret stork pelican flamingo penguin ostrich peacock chicken hen rooster "
        "turkey crow raven magpie jay finch goldfinch wren hummingbird woodpecker kingfisher toucan hornbill "
        "albatross vulture quail partridge ptarmigan grouse sandpiper plover cormorant mallard drake ibis spoonbill "
        "bittern bustard coot oystercatcher lorikeet chickadee bunting junco bulbul waterfowl songbird blackbird "
        "canary puffin crane_bird"
    ),
    "cat": "kitten kitty feline tabby tomcat siamese",
    "dog": (
        "puppy pup hound canine mutt doggy beagle terrier retriever spaniel poodle collie sheepdog corgi husky "
        "dachshund chihuahua pug bulldog mastiff greyhound labrador dalmatian rottweiler doberman schnauzer "
        "pomeranian malamute whippet setter bloodhound foxhound wolfhound deerhound coonhound basset papillon "
        "pekinese weimaraner vizsla samoyed keeshond akita basenji airedale borzoi saluki pinscher affenpinscher "
        "kelpie komondor kuvasz leonberger malinois groenendael briard schipperke bouvier bullmastiff otterhound "
        "ridgeback german_shepherd great_dane saint_bernard shih_tzu chow_chow"
    ),
    "horse": "pony stallion mare foal colt thoroughbred sorrel",
    "sheep": "lamb ram ewe bighorn",
    "cow": "cattle bull ox oxen calf calves heifer bovine steer",
    "elephant": "tusker pachyderm",
    "bear": "grizzly panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "rucksack knapsack daypack back_pack",
    "umbrella": "parasol",
    "handbag": "purse tote shoulder_bag hand_bag",
    "tie": "necktie bowtie cravat",
    "suitcase": "luggage baggage suit_case",
    "frisbee": "flying_disc",
    "skis": "ski",
    "snowboard": "snow_board",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "bat",
    "baseball glove": "glove mitt",
    "skateboard": "skate_board",
    "surfboard": "surf_board",
    "tennis racket": "racket racquet",
    "bottle": "flask",
    "wine glass": "wineglass goblet",
    "cup": "mug teacup",
    "fork": "",
    "knife": "knives cleaver",
    "spoon": "teaspoon tablespoon ladle",
    "bowl": "",
    "banana": "",
    "apple": "granny_smith",
    "sandwich": "burger hamburger cheeseburger panini",
    "orange": "tangerine mandarin clementine",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog frankfurter wiener",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake cheesecake gateau",
    "chair": "armchair recliner",
    "couch": "sofa settee loveseat",
    "potted plant": "plant houseplant flowerpot bonsai",
    "bed": "bunk four_poster",
    "dining table": "table",
    "toilet": "lavatory commode",
    "tv": "television telly monitor tv_set",
    "laptop": "notebook_computer macbook",
    "mouse": "mice",
    "remote": "remote_control",
    "keyboard": "",
    "cell phone": "phone cellphone smartphone telephone mobile_phone iphone",
    "microwave": "",
    "oven": "stove cooker",
    "toaster": "",
    "sink": "basin washbasin washbowl",
    "refrigerator": "fridge icebox",
    "book": "paperback textbook",
    "clock": "clocktower",
    "vase": "urn",
    "scissors": "scissor shears",
    "teddy bear": "teddy",
    "hair drier": "hairdryer hair_dryer blow_dryer hand_blower",
    "toothbrush": "",
}

#: Phrases with a class's name in them that mean something else.
OTHERS = (
    "cable_car pool_table table_tennis tennis_table table_lamp wheel_chair flower_bed power_plant toilet_paper "
    "toilet_tissue super_bowl world_cup bus_stop bus_station train_station car_park "
    "ball_room"
)

_IRREGULAR = {"man": "men", "woman": "women", "child": "children"}


def named(text: str) -> frozenset[str]:
    """The classes that a text names."""
    return frozenset(of for classes in _read(text) for of in classes)


def naming_words(text: str) -> list[tuple[str, frozenset[str]]]:
    """The words of a text, in lower case, with the classes that each one, or a phrase that it is a part of, names."""
    words = _WORD.findall(text.lower())
    return list(zip(words, _read(text), strict=True))


def _read(text: str) -> list[frozenset[str]]:
    words = _WORD.findall(text.lower())
    found: list[frozenset[str]] = []
    table, longest = _phrases()
    while len(found) < len(words):
        place = len(found)
        for length in range(min(longest, len(words) - place), 0, -1):
            classes = table.get(tuple(words[place : place + length]))
            if classes is not None:
                found += [classes] * length
                break
        else:
            found.append(frozenset())
    return found


@functools.cache
def _phrases() -> tuple[dict[tuple[str, ...], frozenset[str]], int]:
    """The classes of every phrase, in the singular and plural, and the words of the longest."""
    table: dict[tuple[str, ...], frozenset[str]] = {}
    for of, names in [*NAMES.items(), ("", OTHERS)]:
        own = frozenset([of] if of else [])
        for name in ([of.replace(" ", "_")] if of else []) + names.split():
            *before, last = name.split("_")
            for form in (last, *_plurals(last)):
                phrase = (*before, form)
                table[phrase] = table.get(phrase, frozenset()) | own
    return table, max(map(len, table))


def _plurals(word: str) -> tuple[str, ...]:
    if word in _IRREGULAR:
        return (_IRREGULAR[word],)
    if word.endswith("y") and word[-2:-1] not in "aeiou":
        return (f"{word[:-1]}ies",)
    if word.endswith(("s", "x", "ch", "sh")):
        return (f"{word}es",)
    return (f"{word}s",)
