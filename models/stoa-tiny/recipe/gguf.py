"""A small writer of GGUF version 3: metadata and tensors in F32 or Q8_0."""

import struct

import numpy as np

ALIGNMENT = 32
F32, Q8_0 = 0, 8


def q8_0(array):
    """Blocks of 32 values: an F16 scale and 32 signed bytes, rounded half away from zero as llama.cpp does."""
    blocks = array.astype(np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1) / 127
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = blocks * inverse[:, None]
    values = np.trunc(scaled + np.copysign(0.5, scaled)).astype(np.int8)
    out = np.empty(len(blocks), [("scale", "<f2"), ("values", "i1", 32)])
    out["scale"], out["values"] = scale, values
    return out.tobytes()


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    """A metadata value with its type number in front."""
    if isinstance(v, bool):
        return struct.pack("<I?", 7, v)
    if isinstance(v, int):
        return struct.pack("<II", 4, v)
    if isinstance(v, float):
        return struct.pack("<If", 6, v)
    if isinstance(v, str):
        return struct.pack("<I", 8) + text(v)
    kind = value(v[0])[:4] if not isinstance(v[0], int) else struct.pack("<I", 5)
    body = b"".join(struct.pack("<i", x) if isinstance(x, int) else text(x) for x in v)
    return struct.pack("<I", 9) + kind + struct.pack("<Q", len(v)) + body


def write(path, metadata, tensors):
    """Write `tensors`, a list of name, float array and type."""
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    head += b"".join(text(k) + value(v) for k, v in metadata.items())
    body = bytearray()
    for name, array, kind in tensors:
        data = q8_0(array) if kind == Q8_0 else array.astype("<f4").tobytes()
        head += text(name) + struct.pack("<I", array.ndim)
        head += b"".join(struct.pack("<Q", n) for n in reversed(array.shape))
        head += struct.pack("<IQ", kind, len(body))
        body += data + bytes(-len(data) % ALIGNMENT)
    head += bytes(-len(head) % ALIGNMENT)
    with open(path, "wb") as out:
        out.write(head + bytes(body))
