"""What becomes of memory that a step has freed."""

import torch

LARGEST = 2**25 - 2**16


def keep_freed_memory() -> None:
    """Let the process keep what a step has freed for the next one: up to 64 MiB of it, of tensors below 32 MiB.

    glibc gives freed memory back beyond twice the largest mapped block that it has seen freed, which counts up to
    32 MiB (mallopt(3), M_MMAP_THRESHOLD); with several tangents a tenth of a step was page faults for it to be had
    again. Nothing is written into the block here, so that it takes no memory. Other allocators do as they do.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
