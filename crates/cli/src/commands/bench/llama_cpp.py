"""Measures llama.cpp (PyPI `xllamacpp`) on one file, its server's work on each request included.

usage: llama_cpp.py MODEL.gguf PROMPT SHORT TOKENS THREADS

For each line of standard input one round, told as a line of JSON: a prompt of PROMPT tokens, then TOKENS tokens after a prompt of SHORT.
Times are seconds; `cpu` is the whole process, all threads."""

import json
import resource
import sys
import time

import xllamacpp

path = sys.argv[1]
prompt, short, tokens, threads = (int(n) for n in sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path = path
params.n_ctx, params.n_parallel, params.warmup = prompt + short + tokens + 64, 1, False
params.n_batch = params.n_ubatch = max(prompt, 512)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)


def complete(ids, limit):
    """Seconds of wall and of processor that a greedy answer of so many tokens takes."""
    request = {"prompt": ids, "max_tokens": limit, "temperature": 0.0, "top_k": 1, "cache_prompt": False, "ignore_eos": True}
    wall, cpu = time.perf_counter(), time.process_time()
    reply = server.handle_completions(request)
    spent = time.perf_counter() - wall, time.process_time() - cpu
    reply = reply if isinstance(reply, dict) else json.loads(reply)
    if reply["usage"]["completion_tokens"] != limit or reply["usage"]["prompt_tokens"] != len(ids):
        raise SystemExit(f"llama.cpp made another number of tokens than it was asked for: {reply['usage']}")
    return spent


def measure(seed):
    ids = [(seed * 31 + n * n * 7 + n) % 256 for n in range(max(prompt, short))]
    prefill = complete(ids[:prompt], 1)
    # The one token is made from the prompt's own logits: what is left is the steps.
    alone, whole = complete(ids[:short], 1), complete(ids[:short], tokens + 1)
    decode = [all_ - one for all_, one in zip(whole, alone)]
    return {
        "prefill": {"wall": prefill[0], "cpu": prefill[1]},
        "decode": {"wall": decode[0], "cpu": decode[1]},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


print(json.dumps({"version": getattr(xllamacpp, "__version__", "unknown")}), flush=True)
for line in sys.stdin:
    print(json.dumps(measure(int(line))), flush=True)
