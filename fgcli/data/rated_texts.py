"""Texts rated by people, of the source distribution of vaderSentiment 0.5 (Hutto and Gilbert 2014; MIT licence).

fg does not ship it and never downloads it: `FETCH` is the command that puts it where it is looked for.
"""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

from fgcli.errors import UsageError
from fgcli.files import cache_folder, read_regular

ARCHIVE = "vaderSentiment-0.5.zip"
FETCH = "pip download --no-deps --no-binary :all: --dest {folder} vaderSentiment==0.5"
_INNER = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
_FILES = {
    "movie-snippets": "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
    "news": "hutto_ICWSM_2014/nytEditorialSnippets_GroundTruth.txt",
}
_LIMIT = 64 * 2**20  # bytes of the archive that are read


class Rated(NamedTuple):
    """A text and the mean of its ratings by people, from -4, negative, to 4."""

    text: str
    rating: float


def read_rated(name: str, archive: Path | None = None) -> list[Rated]:
    """The texts of `movie-snippets` or `news` in the order of their file.

    `archive`: what pip fetched; by default that in the cache folder. UsageError without it, with the command that
    fetches it, or where it is another file.
    """
    path = archive or cache_folder() / ARCHIVE
    if archive is None and not path.exists():
        command = FETCH.format(folder=path.parent)
        raise UsageError(f"dataset {name} needs {path}, which is not there; fetch it once (2.4 MB): {command}")
    try:
        content = read_regular(path, _LIMIT)
        with zipfile.ZipFile(io.BytesIO(content)) as outer:
            inner = outer.read(_INNER)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is not {ARCHIVE}: {error}") from error
    if hashlib.sha256(inner).hexdigest() != _SHA256:
        raise UsageError(f"{path} is not {ARCHIVE}: the texts in it have another sha256")
    with tarfile.open(fileobj=io.BytesIO(inner), mode="r:gz") as archived:
        file = archived.extractfile(_FILES[name])
        assert file is not None, "the sum says that it is there"
        lines = filter(None, file.read().decode().split("\r\n"))
        return [Rated(words, float(rating)) for _, rating, words in (line.split("\t", 2) for line in lines)]


def fixed_split(rated: list[Rated]) -> tuple[list[Rated], list[Rated]]:
    """Training and test texts: every fifth of the file is one for testing, and the copies of a text are in one split.

    Each in the order of their sha256: the file has all that are positive first.
    """
    first: dict[str, int] = {}
    for index, one in enumerate(rated):
        first.setdefault(one.text, index)
    tested = [first[one.text] % 5 == 4 for one in rated]
    kept = [[one for one, is_test in zip(rated, tested, strict=True) if is_test is part] for part in (False, True)]
    train, test = (sorted(part, key=lambda one: hashlib.sha256(one.text.encode()).digest()) for part in kept)
    return train, test
