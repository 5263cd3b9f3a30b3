"""A folder with a folder of images for each class."""

from pathlib import Path

import numpy

from fgcli.data.dataset import Dataset
from fgcli.data.options import ImageOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.errors import UsageError
from fgcli.extend.extras import require

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
MODES = {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3, "CMYK": 3, "YCbCr": 3}
"""Channels that an image of each of Pillow's modes has; others have more than 8 bits."""


def image_folder(options: ImageOptions, path: Path) -> Dataset:
    """float32 [n, channels, height, width] of pixels from 0 to 255, standardised; the classes are the folders' names.

    UsageError that names the file, or the folder, of what is no image of a class.
    """
    require("images", "PIL", what=str(path))
    if len(options.size) == 1:
        raise UsageError(f"--dataset-option size is {options.size}; it must be [height, width]")
    divided = (path / "train").is_dir() and (path / "test").is_dir()
    places = [path / "train", path / "test"] if divided else [path]
    names = [one.name for one in _folders(places[0])]
    if len(names) < 2:
        raise UsageError(f"{path} must hold two folders of images at least, one a class; it holds {len(names)}")
    if divided and (strange := [one.name for one in _folders(places[1]) if one.name not in names]):
        raise UsageError(f"{places[1] / strange[0]}: {places[0]} has no such class; its classes: {', '.join(names)}")
    files = [[(file, names.index(one.name)) for one in _folders(place) for file in _images(one)] for place in places]
    coloured = (_open(file)[0] == 3 for listed in files for file, _ in listed)
    channels = 1 if options.colour == "grey" or (options.colour is None and not any(coloured)) else 3
    size: tuple[int, int] | None = (options.size[0], options.size[1]) if options.size else None
    splits = []
    for listed in files:
        pixels = []
        for file, _ in listed:
            pixels.append(_pixels(file, channels, size))
            if pixels[-1].shape != pixels[0].shape:
                shapes = [" × ".join(map(str, one.shape[1:])) for one in (pixels[-1], pixels[0])]
                said = f"is {shapes[0]}, {listed[0][0]} {shapes[1]}"
                raise UsageError(f"{file} {said}; set --dataset-option size=[height,width]")
        splits.append(Samples(numpy.stack(pixels), numpy.array([number for _, number in listed])))
    return own_dataset(str(path), splits[0], splits[1] if divided else None, options, names)


def _folders(path: Path) -> list[Path]:
    return sorted(one for one in path.iterdir() if one.is_dir() and not one.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Those in the folder and in folders of it."""
    found = sorted(one for one in folder.rglob("*") if one.suffix.lower() in SUFFIXES and one.name[0] != ".")
    if not found:
        raise UsageError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}); it is a class by its name")
    return found


def _open(file: Path):
    """Its channels, and the image. UsageError where it is none of 8 bits."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(file)
        image.load()
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise UsageError(f"{file} cannot be read as an image: {error}") from error
    if image.mode not in MODES:
        raise UsageError(f"{file} has pixels of mode {image.mode}; convert it to 8 bits a channel")
    return MODES[image.mode], image


def _pixels(file: Path, channels: int, size: tuple[int, int] | None) -> numpy.ndarray:
    """uint8 [channels, height, width]."""
    from PIL import Image

    image = _open(file)[1].convert("L" if channels == 1 else "RGB")
    if size is not None:
        image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = numpy.asarray(image)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
