"""llama.cpp's own server (PyPI `xllamacpp`) on a free port of loopback. Prints its address, then serves until standard input ends.

usage: llama_server.py MODEL.gguf PARALLEL [THREADS]"""

import socket
import sys

import xllamacpp

path, parallel = sys.argv[1], int(sys.argv[2])
threads = int(sys.argv[3]) if len(sys.argv) > 3 else 1
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx, params.n_parallel, params.warmup = 1024 * parallel, parallel, False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
params.hostnames, params.port = ["127.0.0.1"], port
params.endpoint_props = True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
