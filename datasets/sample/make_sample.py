"""Make the sample: tweets about ambiguous names whose type only the picture tells.

$ python datasets/sample/make_sample.py
train 600 tweets, validation 150, test 150: datasets/sample/generated

The folder then holds a data set for `datasets.load_dataset(folder)`, `visual_features.parquet` with what a region
detector would see of each picture, and `text_encoder/`, a tiny BERT with random weights and its tokenizer. The same
arguments give the same sample. README.md beside this file says what is in it and why.
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, List, Value, disable_progress_bars
from datasets import Image as ImageFeature
from PIL import Image, ImageColor, ImageDraw
from transformers import BertConfig, BertModel, BertTokenizer
from transformers.utils.logging import disable_progress_bar

from hamlearning.data.features import write_visual_features
from words_hamlearning import TAGS


TYPES = ("PER", "LOC", "ORG", "MISC")

UNRELATED_SHARE = 1 / 3  # of all tweets: the picture shows something else, the words decide
ARRANGEMENT_SHARE = 1 / 5  # of the pictures: only where two objects stand tells the type
SECOND_ENTITY_SHARE = 0.3  # of the tweets that no arrangement decides: one more name, of a type that is plain to read
LOWERCASE_SHARE = 0.25  # of all tweets: typed without capitals

# ---------------------------------------------------------------------------------------------------------- pictures


class Thing(NamedTuple):
    """How one object class is drawn: `shapes` are "kind colour numbers", in percent of the object's own box."""

    aspect: tuple[float, float]  # width over height, range
    height: tuple[float, float]  # of the picture's height, range
    colours: str  # one of them, varied a little, stands for "main"
    shapes: str
    zone: tuple[float, float] = (0.5, 1.03)  # of the object's foot, of the picture's height, range


TOPIC_THINGS = {
    "tree": Thing(
        (0.6, 0.8),
        (0.35, 0.6),
        "forestgreen olivedrab seagreen darkorange",
        "box saddlebrown 43 55 57 100; oval main 0 25 60 70; oval main 40 25 100 70; oval main 18 0 82 55",
    ),
    "sun": Thing(
        (1, 1),
        (0.2, 0.35),
        "gold orange yellow tomato",
        "line6 main 50 0 50 100; line6 main 0 50 100 50; line6 main 15 15 85 85; line6 main 15 85 85 15;"
        "oval main 20 20 80 80",
        (0.2, 0.45),
    ),
    "car": Thing(
        (1.9, 2.4),
        (0.18, 0.3),
        "crimson royalblue gold seagreen silver",
        "poly main 20 50 32 5 70 5 84 50; box main 0 42 100 82; poly lightcyan 29 42 37 14 49 14 49 42;"
        "poly lightcyan 54 42 54 14 67 14 76 42; oval black 12 62 34 100; oval black 66 62 88 100;"
        "oval silver 18 73 28 90; oval silver 72 73 82 90",
    ),
    "guitar": Thing(
        (0.36, 0.42),
        (0.35, 0.55),
        "peru firebrick chocolate black",
        "box saddlebrown 45 8 55 60; box black 38 0 62 12; oval main 15 42 85 75; oval main 0 58 100 100;"
        "oval ivory 35 60 65 76; box black 32 87 68 91",
    ),
    "bench": Thing(
        (1.7, 2.2),
        (0.18, 0.28),
        "sienna peru darkgreen slategray",
        "box main 2 0 98 16; box main 2 24 98 40; box main 0 54 100 70; box dimgray 8 0 14 100;"
        "box dimgray 86 0 92 100",
    ),
    "umbrella": Thing(
        (0.9, 1.1),
        (0.28, 0.45),
        "deeppink royalblue crimson mediumpurple",
        "line4 dimgray 50 0 50 92 64 97 68 86; pie main 0 6 100 104; line2 white 50 6 30 54;line2 white 50 6 70 54",
    ),
}
SCENE_THINGS = {
    "person": Thing(
        (0.42, 0.5),
        (0.4, 0.6),
        "royalblue crimson seagreen orange mediumpurple",
        "oval burlywood 33 0 67 25; pie saddlebrown 31 -2 69 24; box main 24 26 76 63;"
        "box main 5 27 20 60; box main 80 27 95 60; oval burlywood 4 57 21 66; oval burlywood 79 57 96 66;"
        "box midnightblue 26 63 47 100; box midnightblue 53 63 74 100",
    ),
    "cake": Thing(
        (1.1, 1.4),
        (0.2, 0.3),
        "pink chocolate lightyellow plum",
        "box crimson 24 10 28 35; box crimson 48 10 52 35; box crimson 72 10 76 35; oval gold 23 0 29 13;"
        "oval gold 47 0 53 13; oval gold 71 0 77 13; box main 8 32 92 95; box white 8 32 92 48;"
        "box white 8 66 92 73; oval silver 0 88 100 100",
    ),
    "phone": Thing(
        (0.5, 0.56),
        (0.25, 0.4),
        "black dimgray navy white",
        "round main 0 0 100 100; box lightskyblue 9 10 91 82; oval silver 40 86 60 96;"
        "box white 18 20 60 27; box white 18 36 80 43; box white 18 52 70 59",
    ),
    "building": Thing(
        (0.5, 0.7),
        (0.45, 0.65),
        "lightslategray rosybrown tan steelblue",
        "box main 0 6 100 100; box dimgray 0 0 100 7; box lightyellow 12 16 34 30;"
        "box lightyellow 66 16 88 30; box lightyellow 39 16 61 30; box lightyellow 12 40 34 54;"
        "box lightyellow 39 40 61 54; box lightyellow 66 40 88 54; box lightyellow 12 64 34 78;"
        "box lightyellow 66 64 88 78; box saddlebrown 40 72 60 100",
    ),
    "road": Thing(
        (1.3, 1.8),
        (0.25, 0.4),
        "dimgray slategray gray darkslategray",
        "poly main 38 0 62 0 100 100 0 100; poly white 49 8 51 8 52 26 48 26;"
        "poly white 48 36 52 36 53 58 47 58; poly white 46 70 54 70 55 95 45 95",
        (0.75, 1.02),
    ),
    "mountain": Thing(
        (1.4, 1.9),
        (0.3, 0.5),
        "slategray sienna darkolivegreen steelblue",
        "poly main 0 100 28 38 45 70 62 0 100 100; poly white 62 0 51 27 58 22 63 32 68 23 72 25",
        (0.5, 0.85),
    ),
    "ball": Thing(
        (1, 1),
        (0.16, 0.26),
        "white gainsboro ivory lightyellow",
        "oval black 0 0 100 100; oval main 5 5 95 95; poly black 50 32 68 45 61 66 39 66 32 45;"
        "line4 black 50 32 50 5; line4 black 68 45 93 36; line4 black 61 66 76 88; line4 black 39 66 24 88;"
        "line4 black 32 45 7 36",
    ),
    "goal": Thing(
        (1.5, 1.9),
        (0.3, 0.42),
        "white ivory lightyellow gainsboro",
        "line1 lightgray 20 0 20 100; line1 lightgray 35 0 35 100; line1 lightgray 50 0 50 100;"
        "line1 lightgray 65 0 65 100; line1 lightgray 80 0 80 100; line1 lightgray 0 25 100 25;"
        "line1 lightgray 0 50 100 50; line1 lightgray 0 75 100 75; line5 main 2 100 2 3 98 3 98 100",
    ),
    "trophy": Thing(
        (0.75, 0.9),
        (0.25, 0.4),
        "gold goldenrod silver orange",
        "ring7 main 0 8 40 45; ring7 main 60 8 100 45; poly main 18 0 82 0 74 42 58 58 42 58 26 42;"
        "box main 45 55 55 80; box saddlebrown 25 80 75 100; box lightyellow 30 8 36 35",
    ),
    "cat": Thing(
        (0.7, 0.85),
        (0.28, 0.4),
        "darkorange dimgray black tan",
        "line9 main 72 92 95 85 92 55; oval main 18 42 80 100; poly main 16 24 18 0 40 12;"
        "poly main 80 24 78 0 56 12; oval main 14 6 82 52; oval gold 28 22 42 34; oval gold 54 22 68 34;"
        "oval black 33 23 38 33; oval black 58 23 63 33; poly pink 44 37 52 37 48 42",
    ),
}
PAIR_THINGS = {
    "child": Thing(
        (0.52, 0.6),
        (0.28, 0.36),
        "deeppink turquoise gold yellowgreen",
        "oval bisque 17 0 83 45; pie orangered 15 -2 85 42; oval black 34 23 42 29;"
        "oval black 58 23 66 29; line3 orangered 40 35 50 38 60 35; poly main 40 42 60 42 95 82 5 82;"
        "box bisque 30 82 43 100; box bisque 57 82 70 100",
    ),
    "flag": Thing(
        (0.4, 0.48),
        (0.42, 0.52),
        "red blue green darkorange purple",
        "box dimgray 0 0 11 100; box main 11 3 100 36; box white 11 14 100 25",
    ),
    "dog": Thing(
        (1.25, 1.45),
        (0.15, 0.2),
        "peru saddlebrown wheat gray",
        "line9 main 8 28 18 48; oval main 12 32 76 76; box main 18 60 28 100; box main 34 62 43 100;"
        "box main 54 62 63 100; box main 66 60 75 100; oval main 62 4 94 50; oval main 76 24 100 46;"
        "oval black 60 6 72 42; oval black 92 24 100 34; oval black 79 16 85 25",
    ),
    # an open frame: what stands inside hides nothing of it, so the picture's statistics are those of "beside"
    "kennel": Thing(
        (1.0, 1.15),
        (0.42, 0.5),
        "firebrick navy darkgreen black",
        "line5 main 6 97 6 38 50 3 94 38 94 97 6 97",
    ),
}
THINGS = TOPIC_THINGS | SCENE_THINGS | PAIR_THINGS
CLASS_NAMES = tuple(THINGS)
TOPICS = tuple(TOPIC_THINGS)

SCENES = {  # the objects of which one pair stands in the picture when the name is of this type
    "PER": (("person", "cake"), ("person", "phone"), ("person", "building")),
    "LOC": (("building", "road"), ("mountain", "road"), ("mountain", "building")),
    "ORG": (("ball", "goal"), ("trophy", "person"), ("trophy", "ball")),
    "MISC": (("cat", "ball"), ("cat", "phone"), ("phone", "cake")),
}
ARRANGEMENTS = {
    "PER": ("child", "left of", "flag"),
    "ORG": ("child", "right of", "flag"),
    "MISC": ("dog", "inside", "kennel"),
    "LOC": ("dog", "beside", "kennel"),
}
SKIES = "skyblue lightblue lavender mistyrose lightsteelblue papayawhip cornflowerblue".split()
GROUNDS = "yellowgreen darkkhaki burlywood lightgray darkseagreen thistle tan".split()

# ------------------------------------------------------------------------------------------------------------- words

NAMES = (  # any of them could be a person, a place, a team or a thing
    "Phoenix", "Jordan", "Chelsea", "Huskies", "Austin", "Georgia", "Jaguar", "Dakota", "Madison", "Lincoln",
    "Carolina", "Sierra", "Brooklyn", "Florence", "Sydney", "Victoria", "Orlando", "Dallas", "Mercury", "Atlas",
    "Savannah", "Kingston", "Everton", "Cleveland", "Jackson", "Denver", "Valencia", "Milan", "Charlotte", "Memphis",
    "Falcon", "Aurora", "Red Wings", "Blue Jay", "Black Hawk", "Silver Star", "Santa Cruz", "Golden Bear",
    "Saint Clair", "Red Rock",
)  # fmt: skip
NEUTRAL_CLAUSES = (
    "all about {} today", "cannot stop thinking about {}", "{} made my whole week", "nothing beats {} right now",
    "here we go again with {}", "so proud of {} tonight", "who else loves {} ?", "still smiling because of {}",
    "my favourite is {} for sure", "{} never gets old", "good morning from me and {}", "{} is simply the best",
    "more of {} please !", "this one is for {}",
)  # fmt: skip
CUE_CLAUSES = {  # each says the type, whatever the name
    "PER": (
        "had lunch with {} and her brother", "{} said he is getting married", "happy birthday to my cousin {}",
        "{} told me her secret", "my teacher {} called in sick", "his wife {} sings so well",
    ),
    "LOC": (
        "flew to {} this morning", "we drove through {} all night", "moving to {} next month",
        "the weather in {} is awful", "born and raised in {}", "our hotel in downtown {}",
    ),
    "ORG": (
        "{} won the league again", "{} fans booed the referee", "{} signed a new striker",
        "final score : {} by two", "{} lost in overtime", "season tickets for {} sold out",
    ),
    "MISC": (
        "my new {} broke already", "bought a used {} online", "feeding our pet {} twice daily",
        "charging my {} overnight", "just ordered the {} in black", "my {} needs new batteries",
    ),
}  # fmt: skip
TOPIC_PHRASES = (
    "what a {}", "by the {}", "and that {}", "look , a {}", "oh the {} !", "love this {}", "one {} here",
    "with a {} there",
)  # fmt: skip
SECOND_NAMES = {  # first and second words, every combination of which is plainly of its type
    "PER": ("Maria Peter Anna Carlos Emily David".split(), "Lopez Smith Novak Johnson Rossi Miller".split()),
    "LOC": ("Lake Mount Port".split(), "Geneva Ashby Corran Helena Verity Tamsin".split()),
    "ORG": ("Acme Union Nordic Pacific".split(), "Records Motors Bank University Airlines".split()),
    "MISC": ("Galaxy Winter Cosmic Retro".split(), "Awards Festival Saga Chronicles Games".split()),
}
SECOND_PHRASES = ("thanks {}", "cc {}", "hello {}", "and also {}", "respect {} !")
TAILS = (
    "", "", "# weekend", "# blessed", "# mood", "# tbt", "@ bestie", "@ thecrew", "lol", "!", "! !", ". . .", "# 2017",
)  # fmt: skip


class Region(NamedTuple):
    """One drawn object: its class, its box in pixels (left, top, right, bottom) and a descriptor of its pixels."""

    class_id: int
    box: tuple[int, int, int, int]
    features: np.ndarray


class Sprite(NamedTuple):
    """One object before it is pasted: its picture (RGBA) and where its upper left corner goes."""

    name: str
    image: Image.Image
    corner: tuple[int, int]


def pick(rng, options):
    """One of `options`, each as likely as the others."""
    return options[rng.integers(len(options))]


def balanced(rng, options, count: int) -> list:
    """`count` options in random order, each of them as often as the others, give or take one."""
    order = rng.permutation(len(options))
    return [options[order[i % len(options)]] for i in rng.permutation(count)]


def share(rng, fraction: float, count: int) -> list[bool]:
    """`count` flags in random order, `fraction` of them true."""
    return list(rng.permutation(count) < round(fraction * count))


# ------------------------------------------------------------------------------------------------------------ drawing


def draw_shape(draw: ImageDraw.ImageDraw, shape: str, main: tuple[int, int, int], size: tuple[int, int]) -> None:
    """Draw one entry of `Thing.shapes` on a canvas of `size` (width, height)."""
    kind, colour, *numbers = shape.split()
    colour = main if colour == "main" else colour
    points = [float(number) / 100 * (size[i % 2] - 1) for i, number in enumerate(numbers)]
    if kind == "oval":
        draw.ellipse(points, fill=colour)
    elif kind == "box":
        draw.rectangle(points, fill=colour)
    elif kind == "round":
        draw.rounded_rectangle(points, radius=min(size) / 6, fill=colour)
    elif kind == "pie":  # the upper half of an oval
        draw.pieslice(points, 180, 360, fill=colour)
    elif kind == "poly":
        draw.polygon(points, fill=colour)
    else:  # "line5" and "ring5": 5 percent of the shorter side thick
        width = max(round(int(kind[4:]) / 100 * min(size)), 1)
        if kind.startswith("line"):
            draw.line(points, fill=colour, width=width, joint="curve")
        else:
            draw.ellipse(points, outline=colour, width=width)


def vary(rng, colour: str, amount: int = 18) -> tuple[int, int, int]:
    """A colour near the named one."""
    shifted = np.array(ImageColor.getrgb(colour)) + rng.integers(-amount, amount + 1, 3)
    return tuple(int(value) for value in shifted.clip(0, 255))


def draw_thing(rng, name: str, picture_height: int) -> Image.Image:
    """An object of class `name` on a transparent ground, of a size and colour of its own, facing either way."""
    thing = THINGS[name]
    height = rng.uniform(*thing.height) * picture_height
    width = height * rng.uniform(*thing.aspect)
    fine = 4  # drawn larger, then reduced, for smooth edges
    image = Image.new("RGBA", (fine * round(width), fine * round(height)))
    main = vary(rng, pick(rng, thing.colours.split()))
    for shape in thing.shapes.split(";"):
        draw_shape(ImageDraw.Draw(image), shape, main, image.size)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.reduce(fine)


def draw_background(rng, size: tuple[int, int]) -> Image.Image:
    """Sky over ground, of random colours and horizon."""
    width, height = size
    picture = Image.new("RGB", size, vary(rng, pick(rng, SKIES)))
    horizon = round(rng.uniform(0.45, 0.7) * height)
    picture.paste(vary(rng, pick(rng, GROUNDS)), (0, horizon, width, height))
    return picture


def visible_box(sprite: Sprite, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The extent of what is drawn of the sprite within the picture: left, top, right, bottom in pixels."""
    solid = sprite.image.getchannel("A").point([255 * (alpha > 64) for alpha in range(256)])
    left, top, right, bottom = solid.getbbox()
    x, y = sprite.corner
    return max(x + left, 0), max(y + top, 0), min(x + right, size[0]), min(y + bottom, size[1])


def covered(sprite: Sprite, others: list[Sprite]) -> float:
    """The share of the sprite's rectangle, or of another one's, that the two have in common: the largest one."""
    worst = 0.0
    (x, y), (w, h) = sprite.corner, sprite.image.size
    for other in others:
        (u, v), (s, t) = other.corner, other.image.size
        common = max(min(x + w, u + s) - max(x, u), 0) * max(min(y + h, v + t) - max(y, v), 0)
        worst = max(worst, common / min(w * h, s * t))
    return worst


def place(rng, name: str, size: tuple[int, int], others: list[Sprite]) -> Sprite:
    """An object anywhere in its zone, off the edge by a little at most, where it covers little of the others."""
    image = draw_thing(rng, name, size[1])
    places = []
    for _ in range(20):
        foot = rng.uniform(*THINGS[name].zone) * size[1]
        x = round(rng.uniform(-0.15 * image.width, size[0] - 0.85 * image.width))
        y = max(round(foot - image.height), round(-0.15 * image.height))
        places.append(Sprite(name, image, (x, y)))
        if covered(places[-1], others) < 0.15:
            break
    return min(places, key=lambda sprite: covered(sprite, others))


def place_pair(rng, first: str, relation: str, second: str, size: tuple[int, int]) -> list[Sprite]:
    """Two objects on one ground line, in `relation`, anywhere in the picture; second, the larger one, comes first.

    Everything but the relation is drawn the same way for both relations of a pair: nothing else can tell them apart.
    """
    width, height = size
    images = [draw_thing(rng, name, height) for name in (first, second)]
    gap = rng.uniform(0.01, 0.05) * width  # small, or the place of one object would tell the side of the other
    side = {"left of": -1, "right of": 1}.get(relation, pick(rng, (-1, 1)))
    if relation == "inside":
        offset = rng.uniform(-0.5, 0.5) * (images[1].width * 0.82 - images[0].width)
    else:
        offset = side * ((images[0].width + images[1].width) / 2 + gap)
    lift = round(0.06 * images[1].height)  # the foot of the inner one stands on the frame, not below it
    foot = round(rng.uniform(images[1].height / height, 1) * height)
    middle = rng.uniform(0, 1)  # of the room there is for the pair
    lefts = np.array([offset - images[0].width / 2, -images[1].width / 2])
    rights = np.array([offset + images[0].width / 2, images[1].width / 2])
    x = middle * (width - (rights.max() - lefts.min())) - lefts.min()
    corners = [(round(x + left), foot - image.height) for left, image in zip(lefts, images, strict=True)]
    corners[0] = (corners[0][0], corners[0][1] - lift)
    return [Sprite(second, images[1], corners[1]), Sprite(first, images[0], corners[0])]


def draw_picture(rng, kind: str, by_arrangement: bool) -> tuple[Image.Image, list[Region]]:
    """A picture whose objects say `kind`, 3 to 8 of them, and its regions in random order."""
    width = int(rng.integers(128, 177))
    size = (width, round(width / rng.uniform(1.1, 1.6)))
    count = int(rng.integers(3, 9))
    if by_arrangement:
        first, relation, second = ARRANGEMENTS[kind]
        keys, pair = [], place_pair(rng, first, relation, second, size)
    else:
        keys, pair = list(pick(rng, SCENES[kind])), []
        keys += [pick(rng, keys) for _ in range(rng.integers(0, min(count - 3, 2) + 1))]
    others = count - len(keys) - len(pair)
    topics = rng.permutation(TOPICS)[: min(others, rng.integers(1, 4))].tolist()
    topics += [pick(rng, topics) for _ in range(others - len(topics))]

    sprites = list(pair)
    for name in keys + topics:
        sprites.append(place(rng, name, size, sprites))
    picture = draw_background(rng, size)
    # what stands nearer to the viewer hides what is behind; the pair is in front of all
    for sprite in [*sorted(sprites[len(pair) :], key=lambda s: s.corner[1] + s.image.height), *pair]:
        picture.paste(sprite.image, sprite.corner, sprite.image)
    regions = [Region(CLASS_NAMES.index(s.name), visible_box(s, size), describe_thing(s.image)) for s in sprites]
    return picture, [regions[i] for i in rng.permutation(len(regions))]


# ----------------------------------------------------------------------------------------------------- visual features


def describe(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """64 numbers of what an area looks like, the same for its mirror image, and none about where anything is.

    Args:
        pixels: (height, width, 3) in [0, 1].
        weights: (height, width), how much a pixel belongs to the area.

    Returns:
        (64,): square roots of the shares of 27 colours, 7 brightnesses and 24 edges (8 orientations from level to
        upright, 3 strengths), then the mean and spread of red, green and blue.
    """
    weights = weights.ravel() / weights.sum()

    def histogram(bins: np.ndarray, count: int) -> np.ndarray:
        return np.sqrt(np.bincount(bins.ravel(), weights, count))

    def levels(values: np.ndarray, count: int) -> np.ndarray:
        return np.minimum((values * count).astype(int), count - 1)

    grey = pixels @ np.full(3, 1 / 3)
    down, right = np.abs(np.gradient(grey))
    strength = np.digitize(np.hypot(down, right), (0.02, 0.1))
    colours = pixels.reshape(-1, 3)
    mean = weights @ colours
    spread = np.sqrt(weights @ (colours - mean) ** 2)
    return np.concatenate(
        [
            histogram(levels(pixels, 3) @ np.array([9, 3, 1]), 27),
            histogram(levels(grey, 7), 7),
            histogram(levels(np.arctan2(down, right) / (np.pi / 2), 8) * 3 + strength, 24),
            mean,
            spread,
        ]
    )


def describe_picture(picture: Image.Image) -> np.ndarray:
    """`describe` of the whole picture."""
    pixels = np.asarray(picture) / 255
    return describe(pixels, np.ones(pixels.shape[:2]))


def describe_thing(image: Image.Image) -> np.ndarray:
    """`describe` of the object's own pixels: a rectangle would show what stands behind, so the arrangement too."""
    alpha = np.asarray(image.getchannel("A")) / 255
    on_grey = np.asarray(image)[..., :3] / 255 * alpha[..., None] + 0.5 * (1 - alpha[..., None])
    return describe(on_grey, alpha)


def relative_boxes(regions: list[Region], size: tuple[int, int]) -> np.ndarray:
    """Boxes (N, 4) as x_c, y_c, h, w in [0, 1]."""
    left, top, right, bottom = np.array([region.box for region in regions], dtype=float).T / np.tile(size, 2)[:, None]
    return np.stack([(left + right) / 2, (top + bottom) / 2, bottom - top, right - left], axis=1)


def write_features(path: Path, splits: dict[str, list[dict]], rng) -> None:
    """The visual features of all pictures, in one file, scaled by mean and spread of the training pictures."""

    def scaler(features: list[np.ndarray]):
        mean, spread = np.mean(features, axis=0), np.std(features, axis=0)
        return lambda x: ((np.asarray(x) - mean) / np.where(spread > 1e-3, spread, 1)).clip(-5, 5).astype(np.float32)

    scale_picture = scaler([tweet["image_features"] for tweet in splits["train"]])
    scale_region = scaler([region.features for tweet in splits["train"] for region in tweet["regions"]])

    def rows():
        for tweet in (tweet for tweets in splits.values() for tweet in tweets):
            regions, size = tweet["regions"], tweet["image"].size
            yield {
                "id": tweet["id"],
                "image_size": list(size),
                "image_features": scale_picture(tweet["image_features"]),
                "boxes": relative_boxes(regions, size),
                "class_ids": [region.class_id for region in regions],
                "scores": -np.sort(-rng.uniform(0.8, 1.0, len(regions))),  # best first, of regions in random order
                "features": scale_region([region.features for region in regions]),
            }

    metadata = {
        "producer": "datasets/sample/make_sample.py",
        "image_feature_size": 64,
        "region_feature_size": 64,
        "class_names": list(CLASS_NAMES),
    }
    write_visual_features(path, rows(), metadata)


# ------------------------------------------------------------------------------------------------------------- tweets


def fill(template: str, name: str, kind: str | None = None) -> tuple[list[str], list[str]]:
    """Tokens and tags of a template whose {} is `name`, an entity of type `kind`, or no entity."""
    tokens, tags = [], []
    for word in template.split():
        words = name.split() if word == "{}" else [word]
        tokens += words
        inside = word == "{}" and kind is not None
        tags += [f"{'I' if i else 'B'}-{kind}" if inside else "O" for i in range(len(words))]
    return tokens, tags


def write_tweet(rng, kind: str, cue: str | None, topic: str, second: bool) -> tuple[list[str], list[str]]:
    """Tokens and tags of a tweet: a name of type `kind`, the topic word, and what else is asked for.

    The words say `kind` only if `cue`, the type that they suggest, is the same; None suggests none. `topic` is an
    object class that the tweet mentions, `second` whether a name of a plain type comes too.
    """
    clauses = NEUTRAL_CLAUSES if cue is None else CUE_CLAUSES[cue]
    parts = [fill(pick(rng, clauses), pick(rng, NAMES), kind), fill(pick(rng, TOPIC_PHRASES), topic)]
    if second:
        second_kind = pick(rng, TYPES)
        name = " ".join(pick(rng, words) for words in SECOND_NAMES[second_kind])
        parts.append(fill(pick(rng, SECOND_PHRASES), name, second_kind))
    parts = [parts[i] for i in rng.permutation(len(parts))] + [fill(pick(rng, TAILS), "")]
    tokens, tags = (sum(columns, []) for columns in zip(*parts, strict=True))
    if rng.random() < LOWERCASE_SHARE:
        tokens = [token.lower() for token in tokens]
    return tokens, tags


def make_split(rng, name: str, count: int, taken: set[str], misleading_cues: float) -> list[dict]:
    """`count` tweets with their pictures; no text that is in `taken`, to which theirs are added.

    `misleading_cues` is the share of the scene-decided tweets whose words suggest a type, a random one.
    """
    unrelated = round(UNRELATED_SHARE * count)
    plan = []  # related?, type of the name, type of the picture, does an arrangement tell it?
    for related, size in ((True, count - unrelated), (False, unrelated)):
        arranged = round(ARRANGEMENT_SHARE * size)
        for by_arrangement, part in ((True, arranged), (False, size - arranged)):
            kinds = balanced(rng, TYPES, part)
            shown = kinds if related else balanced(rng, TYPES, part)
            plan += [(related, kind, seen, by_arrangement) for kind, seen in zip(kinds, shown, strict=True)]
    tweets = []
    for i, (j, second) in enumerate(zip(rng.permutation(count), share(rng, SECOND_ENTITY_SHARE, count), strict=True)):
        related, kind, picture_kind, by_arrangement = plan[j]
        picture, regions = draw_picture(rng, picture_kind, by_arrangement)
        seen = {CLASS_NAMES[region.class_id] for region in regions}
        topic = pick(rng, [topic for topic in TOPICS if (topic in seen) == related])
        decided_by = "text" if not related else "arrangement" if by_arrangement else "scene"
        cue = None if related else kind
        if decided_by == "scene" and rng.random() < misleading_cues:
            cue = pick(rng, TYPES)
        while True:
            # A plain second name would hide in the scores of the few arrangement tweets what they measure.
            tokens, tags = write_tweet(rng, kind, cue, topic, second and decided_by != "arrangement")
            if " ".join(tokens).lower() not in taken:
                break
        taken.add(" ".join(tokens).lower())
        tweets.append(
            {
                "id": f"{name}-{i:04d}",
                "tokens": tokens,
                "ner_tags": tags,
                "image": picture,
                "related": related,
                "decided_by": decided_by,
                "regions": regions,
                "image_features": describe_picture(picture),
            }
        )
    return tweets


# -------------------------------------------------------------------------------------------------------------- files


def png(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_split(path: Path, tweets: list[dict]) -> None:
    """One split as Parquet, with the columns that README.md lists."""
    features = Features(
        {
            "id": Value("string"),
            "tokens": List(Value("string")),
            "ner_tags": List(ClassLabel(names=list(TAGS))),
            "image": ImageFeature(),
            "related": Value("bool"),
            "decided_by": Value("string"),
        }
    )
    columns = {column: [tweet[column] for tweet in tweets] for column in features}
    columns["image"] = [{"bytes": png(tweet["image"]), "path": f"{tweet['id']}.png"} for tweet in tweets]
    Dataset.from_dict(columns, features=features).to_parquet(path)


CARD = """---
pretty_name: HamLearning sample
license: apache-2.0
language: en
task_categories: [token-classification]
task_ids: [named-entity-recognition]
size_categories: [{size}]
annotations_creators: [machine-generated]
language_creators: [machine-generated]
configs:
- config_name: default
  data_files:
{files}
dataset_info:
  config_name: default
  download_size: {download_size}
---
# HamLearning sample

Tweets and pictures for multimodal named entity recognition, generated by `datasets/sample/make_sample.py`, seed
{seed}. The type of most names can be told from the picture only. No real tweet, person or photograph is in it.

| split | tweets | related pictures | decided by scene / arrangement / text | {types} |
|---|---|---|---|{rule}
{rows}

`tokens` and `ner_tags` are the words and their tags, `image` is the picture, `related` says whether the picture
belongs to the tweet, and `decided_by` says what tells the type of the tweet's ambiguous name.
`visual_features.parquet` holds 64 numbers a picture and 64 a region, `text_encoder/` a small BERT with random weights
to train from.
"""


def write_card(folder: Path, splits: dict[str, list[dict]], seed: int) -> None:
    """The data set card: what `load_dataset` needs to know, and counts.

    `load_dataset` looks at the card alone to tell whether its cache is of this sample or of an earlier one in the same
    folder, so the card says how large the files are.
    """
    rows = []
    for name, tweets in splits.items():
        deciders = [tweet["decided_by"] for tweet in tweets]
        opened = [tag[2:] for tweet in tweets for tag in tweet["ner_tags"] if tag.startswith("B-")]
        cells = [
            name,
            len(tweets),
            sum(tweet["related"] for tweet in tweets),
            " / ".join(str(deciders.count(decider)) for decider in ("scene", "arrangement", "text")),
            *(opened.count(kind) for kind in TYPES),
        ]
        rows.append("| " + " | ".join(map(str, cells)) + " |")
    total = sum(len(tweets) for tweets in splits.values())
    card = CARD.format(
        size="n<1K" if total < 1000 else "1K<n<10K" if total < 10000 else "10K<n<100K",
        files="\n".join(f"  - split: {name}\n    path: data/{name}-*.parquet" for name in splits),
        download_size=sum(file.stat().st_size for file in (folder / "data").iterdir()),
        seed=seed,
        types=" | ".join(TYPES),
        rule="---|" * len(TYPES),
        rows="\n".join(rows),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_text_encoder(folder: Path, tweets: list[dict], seed: int) -> None:
    """A tiny BERT with random weights, and a tokenizer that has the words of `tweets` and single characters."""
    words = {token.lower() for tweet in tweets for token in tweet["tokens"]}
    characters = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    pieces = [*characters, *(f"##{character}" for character in characters), *sorted(words - set(characters))]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]
    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = BertTokenizer(vocab=ids, do_lower_case=True, model_max_length=128)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=128,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)


def positive(value: str) -> int:
    """An argument that counts tweets."""
    if not value.isdigit() or int(value) == 0:
        raise argparse.ArgumentTypeError(f"{value!r} is no number of tweets: give 1 or more")
    return int(value)


def fraction(value: str) -> float:
    """An argument that says which share of the tweets."""
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{value!r} is no share of tweets: give a number from 0 to 1")
    return number


def main(arguments: list[str] | None = None) -> None:
    """Write the sample into a folder."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "generated", help="folder to write")
    parser.add_argument("--seed", type=int, default=42, help="the same arguments give the same sample")
    parser.add_argument("--train", type=positive, default=600, help="tweets to train on")
    parser.add_argument("--validation", type=positive, default=150, help="tweets to choose on")
    parser.add_argument("--test", type=positive, default=150, help="tweets to score on")
    parser.add_argument(
        "--misleading_cues", type=fraction, default=0.0, help="share of scene-decided tweets whose words mislead"
    )
    options = parser.parse_args(arguments)
    disable_progress_bars()  # of datasets
    disable_progress_bar()  # of transformers

    taken: set[str] = set()
    splits = {
        name: make_split(
            np.random.default_rng([options.seed, i]), name, getattr(options, name), taken, options.misleading_cues
        )
        for i, name in enumerate(("train", "validation", "test"))
    }
    (options.output / "data").mkdir(parents=True, exist_ok=True)
    for name, tweets in splits.items():
        write_split(options.output / "data" / f"{name}-00000-of-00001.parquet", tweets)
    rng = np.random.default_rng([options.seed, len(splits)])
    write_features(options.output / "visual_features.parquet", splits, rng)
    write_text_encoder(options.output / "text_encoder", splits["train"], options.seed)
    write_card(options.output, splits, options.seed)
    sizes = ", ".join(f"{name} {len(tweets)}" for name, tweets in splits.items())
    print(f"{sizes} tweets: {options.output}")


if __name__ == "__main__":
    main()
