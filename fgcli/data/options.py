"""Options of the built-in data sets. Imports no torch, so that listing and checking stay fast."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fgcli.extend.options import Options

Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]  # what numpy's RandomState takes


class Mnist1dOptions(Options):
    """The arguments of `mnist1d.data.make_dataset`; the defaults are the paper's data set."""

    num_samples: int = Field(
        default=5000,
        ge=10,
        multiple_of=10,
        description="Samples of both splits together, the same number of each class.",
    )
    train_split: float = Field(default=0.8, gt=0, lt=1, description="Share of the samples that goes to training.")
    template_len: int = Field(default=12, ge=2, description="Length of a digit's template before padding.")
    padding: tuple[int, int] = Field(
        default=(36, 60), description="Least and largest number of zeros put after the template."
    )
    scale_coeff: Scale = Field(
        default=0.4, description="Width of the range, around 1, that the amplitude is drawn from."
    )
    max_translation: int = Field(default=48, ge=1, description="The signal is rotated by less than this many points.")
    corr_noise_scale: Scale = Field(
        default=0.25, description="Standard deviation, before smoothing, of the correlated noise in the padding."
    )
    iid_noise_scale: Scale = Field(default=0.02, description="Standard deviation of the white noise on every point.")
    shear_scale: Scale = Field(
        default=0.75, description="Width of the range, around 0, that the slope added is drawn from."
    )
    shuffle_seq: bool = Field(default=False, description="Permute the points, all samples alike: destroys locality.")
    final_seq_length: int = Field(default=40, ge=1, description="Points of a sample: the network's inputs.")
    seed: Seed = Field(default=42, description="Seed of the generator (not of the run).")

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        low, high = self.padding
        if not 0 <= low <= high:
            raise ValueError(f"padding is [{low}, {high}]; it must be two numbers with 0 <= first <= second")
        length = self.template_len + high
        if self.max_translation > length:
            raise ValueError(
                f"max_translation is {self.max_translation}; "
                f"it must be at most template_len + padding[1], the signal's length, {length}"
            )
        train = int(self.num_samples * self.train_split)  # make_dataset's own arithmetic
        if not 1 <= train < self.num_samples:
            raise ValueError(
                f"train_split is {self.train_split} of {self.num_samples} samples; it must leave some in each split"
            )
        return self


class SplitOptions(Options):
    """Images that come as one set: how they are split."""

    test_fraction: float = Field(
        default=0.2, ge=0.01, le=0.99, description="Share of the images kept for testing, the same of each class."
    )
    seed: Seed = Field(default=0, description="Seed of the split (not of the run).")


class OwnOptions(Options):
    """Data of the user's own: what is standardised, what targets are, how samples are split."""

    standardise: Literal["whole", "features", "channels", "none"] = Field(
        default="whole",
        description="Inputs by mean and deviation of the training samples: of all numbers together (`whole`), of each "
        "number of a sample (`features`), of each index of the first axis (`channels`); or `none`.",
    )
    targets: Literal["classes", "numbers"] | None = Field(
        default=None, description="What targets are; by default `numbers` where they have fractions, `classes` else."
    )
    test_fraction: float = Field(
        default=0.2, ge=0.01, le=0.99, description="Share of the samples kept for testing, where the data say none."
    )
    seed: Seed = Field(default=0, description="Seed of that split (not of the run).")


class ArrayOptions(OwnOptions):
    """A .npz file of arrays: `inputs` and `targets`, or both with `train_` and `test_` before them; `x` and `y` do."""

    shape: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], description="Shape of a sample, in place of the file's: [1, 28, 28], say."
    )


class TableOptions(OwnOptions):
    """A table: a row a sample, a column a number."""

    standardise: Literal["whole", "features", "channels", "none"] = Field(
        default="features", description=OwnOptions.model_fields["standardise"].description
    )
    target: str | None = Field(default=None, description="Column of the targets; by default the last.")
    columns: list[str] = Field(default=[], description="Columns of the inputs; by default all others.")
    test_file: str | None = Field(default=None, description="Another file, with the test samples.")


class CsvOptions(TableOptions):
    """A .csv file."""

    header: bool | None = Field(
        default=None, description="Whether the first line names the columns; by default where not all of it is numbers."
    )
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="Between two cells.")


class ImageOptions(OwnOptions):
    """A folder with a folder of images for each class, or with two of such folders, `train` and `test`."""

    size: list[Annotated[int, Field(ge=1)]] = Field(
        default=[], max_length=2, description="Height and width that images are scaled to; without, all have one size."
    )
    colour: Literal["grey", "rgb"] | None = Field(
        default=None, description="One channel or three; by default one where no image has colours."
    )


class HubOptions(OwnOptions):
    """A folder that Hugging Face datasets wrote by `save_to_disk`."""

    target: str | None = Field(default=None, description="Column of the targets; by default the one of class labels.")
    columns: list[str] = Field(default=[], description="Columns of the inputs; by default all others.")


class TextOptions(Options):
    """Texts as the bytes of UTF-8."""

    length: int = Field(
        default=256,
        ge=1,
        description="Bytes of a sample: longer texts are cut, -1 stands behind the end of shorter ones.",
    )
    train_samples: int | None = Field(default=None, ge=1, description="Train on the first of the samples only.")
    test_samples: int | None = Field(default=None, ge=1, description="Test on the first of the samples only.")


class RatedTextOptions(TextOptions):
    """Texts with the mean of people's ratings, from -4 to 4."""

    targets: Literal["classes", "ratings", "next-byte"] = Field(
        default="classes",
        description="`classes`: positive where the rating is above 0, else negative; `ratings`; or the `next-byte` "
        "after each, of all texts with a line break between, for a language model.",
    )
    source: str | None = Field(default=None, description="The file that pip fetched, if it is not in the cache folder.")


class JsonLinesOptions(TextOptions):
    """A .jsonl file: a JSON object a line, with a text and a class."""

    text: str = Field(default="text", description="Key of the text.")
    target: str = Field(default="label", description="Key of the class: text, or a whole number.")
    targets: Literal["classes", "next-byte"] = Field(
        default="classes",
        description="`classes`, or the `next-byte` after each, of all texts with a line break between.",
    )
    test_file: str | None = Field(default=None, description="Another file, with the test samples.")
    test_fraction: float = Field(
        default=0.2, ge=0.01, le=0.99, description="Share of the texts kept for testing, without a test_file."
    )
    seed: Seed = Field(default=0, description="Seed of that split (not of the run).")
