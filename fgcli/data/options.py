"""Options of the built-in data sets. Imports no torch, so that listing and checking stay fast."""

from typing import Annotated, Self

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


class DigitsOptions(Options):
    """scikit-learn's handwritten digits: how they are split."""

    test_fraction: float = Field(
        default=0.2, ge=0.01, le=0.99, description="Share of the 1,797 images kept for testing, the same of each class."
    )
    seed: Seed = Field(default=0, description="Seed of the split (not of the run).")
