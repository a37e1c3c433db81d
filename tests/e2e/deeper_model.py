"""The same model with more work in it: layers are added whose outputs are multiplied by zero, so that every answer stays what it was while
a token costs FACTOR times as much. What a server adds to each token is then seen beside a token that costs something.

usage: deeper_model.py MODEL.gguf DEEPER.gguf FACTOR"""

import re
import sys

import numpy
from gguf import GGUFReader, GGUFValueType, GGUFWriter

source, target, factor = sys.argv[1], sys.argv[2], int(sys.argv[3])
reader = GGUFReader(source)
architecture = reader.get_field("general.architecture").contents()
count = reader.get_field(f"{architecture}.block_count").contents()
writer = GGUFWriter(target, architecture)

for field in reader.fields.values():
    if field.name.startswith("GGUF.") or field.name == "general.architecture":
        continue
    kind, value = field.types[0], field.contents()
    if field.name == f"{architecture}.block_count":
        value = count * factor
    element = field.types[-1] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(field.name, value, kind, sub_type=element)


def add(name, tensor, data):
    writer.add_tensor(name, data, raw_shape=data.shape, raw_dtype=tensor.tensor_type)


for tensor in reader.tensors:
    add(tensor.name, tensor, tensor.data)
    layer = re.match(r"blk\.(\d+)\.(.+)", tensor.name)
    for copy in range(1, factor) if layer else ():
        silent = layer[2] in ("attn_output.weight", "ffn_down.weight")
        data = numpy.zeros_like(tensor.data) if silent else tensor.data
        add(f"blk.{int(layer[1]) + copy * count}.{layer[2]}", tensor, data)

writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
