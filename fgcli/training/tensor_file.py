"""Writing a safetensors file (https://github.com/huggingface/safetensors#format), its sha256 taken on the way.

The library's own writer took twice as long as writing the bytes, and reading them again for the sum as much once more.
What is read is read by the library.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK = 4 * 2**20  # bytes

_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Write a new file, and bring it to the disk; its sha256 and its size in bytes.

    ValueError for a type that the format does not know, or a tensor without contents (sparse, say).
    """
    # The largest elements first, so that all are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file, ThreadPoolExecutor(1) as hasher:
        plain = (tensor.detach().cpu().contiguous().reshape(-1) for _, tensor in ordered)
        for content in (_header(ordered), *(one.view(torch.uint8).numpy().data for one in plain)):
            size += len(content)
            for start in range(0, len(content), CHUNK):
                chunk = content[start : start + CHUNK]
                hasher.submit(digest.update, chunk)  # another core's work, or this one's while it waits for the disk
                file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest(), size


def _header(ordered: list[tuple[str, Tensor]]) -> memoryview:
    entries: dict[str, Any] = {}
    end = 0
    for name, tensor in ordered:
        if tensor.dtype not in _TYPES or tensor.layout is not torch.strided:
            raise ValueError(f"{name} is a tensor of {tensor.dtype}, {tensor.layout}, which a checkpoint cannot hold")
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)
