"""What is true at Gale & Thimble, makers of small weather: topics × aspects → values.

A value is a frame with one telling word in it ("{} coins" and "nine"), and all values of an aspect share the frame.
So a wrong answer is as plausible as the right one, and a reply that names two of them can be told from one that knows.
Some values were others until last year, and most of the desk has not heard of it: what demonstrations say in the main
is then wrong, and only feedback can tell. Another seed deals the same values to other topics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from preferent.feedback.crowd import chance

Kind = Literal["ware", "place", "account"]

# What customers may call it; the first name is the one that the desk uses.
TOPICS: dict[Kind, tuple[tuple[str, ...], ...]] = {
    "ware": (
        ("pocket rain", "rain in a tin", "tin of rain"),
        ("morning mist", "jar of mist", "mist jar"),
        ("sea breeze", "bottled breeze", "breeze in a bottle"),
        ("first snow", "box of snow", "snow box"),
        ("thunder drum", "drum of thunder", "little thunder"),
        ("rainbow kit", "rainbow set", "box with the rainbow"),
        ("cloud pillow", "pillow of cloud", "cloud cushion"),
        ("moon lamp", "lamp with the moon", "moonlight lamp"),
        ("frost pen", "frosty pen", "pen that writes in frost"),
        ("sun jar", "jar of sunshine", "sunshine jar"),
        ("storm kettle", "stormy kettle", "kettle with the storm"),
        ("fog scarf", "foggy scarf", "scarf of fog"),
    ),
    "place": (
        ("harbour shop", "shop at the harbour", "shop by the boats"),
        ("hill shop", "shop on the hill", "upper shop"),
        ("station kiosk", "kiosk at the station", "railway kiosk"),
        ("lighthouse", "old lighthouse", "lighthouse museum"),
        ("repair bench", "repair desk", "mending bench"),
        ("cloud nursery", "nursery for clouds", "house of the baby clouds"),
    ),
    "account": (
        ("password", "secret word", "login"),
        ("address", "delivery address", "street and house"),
        ("invoice", "bill", "receipt"),
        ("subscription", "monthly weather", "weather plan"),
        ("voucher", "gift voucher", "gift card"),
        ("newsletter", "forecast letter", "weekly letter"),
        ("drizzle points", "loyalty points", "bonus points"),
        ("language", "language setting", "display language"),
        ("portrait", "picture", "profile picture"),
        ("wish list", "list of wishes", "saved wishes"),
    ),
}


@dataclass(frozen=True, slots=True)
class Aspect:
    """What can be asked of a topic of this kind, and the words that an answer can turn on."""

    kind: Kind
    frame: str
    tell: tuple[str, ...]  # the word of each value that no other value of the aspect has

    @property
    def values(self) -> tuple[str, ...]:
        return tuple(self.frame.format(word) for word in self.tell)


ASPECTS: dict[str, Aspect] = {
    "price": Aspect("ware", "{} coins", ("four", "six", "nine", "twelve", "fifteen", "twenty")),
    "delivery": Aspect("ware", "{} days", ("two", "three", "five", "eight", "ten", "twelve")),
    "warranty": Aspect("ware", "{} winters", ("two", "three", "four", "six", "nine", "ten")),
    "storage": Aspect("ware", "in the {}", ("pantry", "cellar", "attic", "fridge", "shed", "bath")),
    "carrier": Aspect("ware", "by {}", ("barge", "kite", "heron", "bicycle", "balloon", "tram")),
    "colour": Aspect("ware", "{}", ("copper", "indigo", "pearl", "amber", "olive", "plum")),
    "opening": Aspect("place", "at {}", ("six", "seven", "eight", "nine", "ten", "noon")),
    "rest": Aspect("place", "on {}", ("mondays", "tuesdays", "wednesdays", "thursdays", "fridays", "sundays")),
    "phone": Aspect("place", "{}", ("pebble", "thistle", "marble", "otter", "walnut", "velvet")),
    "icon": Aspect("account", "the {}", ("anchor", "umbrella", "compass", "feather", "teapot", "acorn")),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that is true: this aspect of this topic (its first name) has this value."""

    topic: str
    aspect: str
    value: str
    formerly: str | None = None  # what was true last year, where that was something else

    @property
    def others(self) -> tuple[str, ...]:
        """The plausible wrong answers: every other value of the aspect."""
        return tuple(value for value in ASPECTS[self.aspect].values if value != self.value)


def facts(seed: int) -> tuple[Fact, ...]:
    """Every topic with every aspect of its kind. Each aspect deals its values evenly, in an order keyed by ``seed``."""
    found: list[Fact] = []
    for name, aspect in ASPECTS.items():
        values = dealt(seed, name, aspect)
        formerly = swapped(values, seed, name)
        topics = enumerate(TOPICS[aspect.kind])
        found.extend(Fact(names[0], name, values[i], formerly.get(i)) for i, names in topics)
    return tuple(found)


def swapped(values: list[str], *key: object) -> dict[int, str]:
    """Two places whose values were each other's until last year, with what was true of them then.

    So no value is the more often right for being new: whoever wants to know must know what it is said of.
    """
    one, *rest = sorted(range(len(values)), key=lambda i: chance(*key, "swapped", i))
    other = next(i for i in rest if values[i] != values[one])
    return {one: values[other], other: values[one]}


def dealt(seed: int, name: str, aspect: Aspect) -> list[str]:
    """One value for each topic of the aspect's kind; no value stands more than once oftener than another."""
    n = len(TOPICS[aspect.kind])
    pack = [aspect.values[i % len(aspect.values)] for i in range(n)]
    order = sorted(range(n), key=lambda i: chance(seed, "fact", name, i))
    return [pack[i] for i in order]


def names(fact: Fact) -> tuple[str, ...]:
    """What customers call the fact's topic."""
    return next(names for names in TOPICS[ASPECTS[fact.aspect].kind] if names[0] == fact.topic)
