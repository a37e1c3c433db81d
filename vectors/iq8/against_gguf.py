#!/usr/bin/env python3
"""Records what the PyPI package `gguf` (llama.cpp's own) makes of the block formats: the hash of the float32 values of each format's
units in formats.json. `reference.py` compares its exact integers, rounded once to float32, with them.

    pip install gguf && python3 vectors/iq8/against_gguf.py
"""

import hashlib
import json
import os

import gguf
import numpy

import reference

recorded = {}
for stream, form in enumerate(reference.UNITS):
    rows = b"".join(reference.random_units(form, 1024, 2 * stream + r) for r in range(2))
    values = gguf.quants.dequantize(numpy.frombuffer(rows, dtype=numpy.uint8), gguf.GGMLQuantizationType[form])
    # Minus zero is zero.
    values = numpy.where(values == 0, numpy.float32(0), values.astype("<f4"))
    recorded[form] = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "formats_gguf.json")
with open(path, "w", encoding="utf-8") as file:
    file.write(json.dumps(recorded, indent=1) + "\n")
