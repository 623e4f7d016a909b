"""Draw the pictures of the Space's examples, with the things and the brush of the sample.

$ python space/examples/draw.py
austin_place.png austin_person.png jaguar_pet.png georgia_trophy.png

A model of the sample can read them: `datasets/sample/README.md` says what its pictures mean.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np


HERE = Path(__file__).parent
SIZE = (480, 360)  # larger than the sample's, so that they look good on a page
PICTURES = {  # seed, then what stands in it
    "austin_place": (22, ("mountain", "road", "car")),
    "austin_person": (9, ("person", "cake", "car")),
    "jaguar_pet": (11, ("cat", "phone", "guitar")),
    "georgia_trophy": (21, ("ball", "trophy", "tree")),
}


def sample_script():
    """`datasets/sample/make_sample.py`, which is no package."""
    path = HERE.parents[1] / "datasets" / "sample" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def draw(make_sample, seed: int, things: tuple[str, ...]):
    """A picture of `things`, those in front last."""
    rng = np.random.default_rng(seed)
    picture, sprites = make_sample.draw_background(rng, SIZE), []
    for name in things:
        sprites.append(make_sample.place(rng, name, SIZE, sprites))
    for sprite in sorted(sprites, key=lambda sprite: sprite.corner[1] + sprite.image.height):
        picture.paste(sprite.image, sprite.corner, sprite.image)
    return picture


if __name__ == "__main__":
    make_sample = sample_script()
    for name, (seed, things) in PICTURES.items():
        draw(make_sample, seed, things).save(HERE / f"{name}.png", optimize=True)
    print(*(f"{name}.png" for name in PICTURES))
