"""Measures llama.cpp (PyPI `xllamacpp`) on one file, its server's work on each request included.

usage: llama_cpp.py MODEL.gguf PROMPT SHORT TOKENS THREADS BATCH

For each line of standard input one round, told as a line of JSON: a prompt of PROMPT tokens, then TOKENS tokens after each of BATCH prompts
of SHORT, all at once.
Times are seconds; `cpu` is the whole process, all threads."""

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import xllamacpp

path = sys.argv[1]
prompt, short, tokens, threads, batch = (int(n) for n in sys.argv[2:])
params = xllamacpp.CommonParams()
params.model.path = path
# The context is shared out among the places.
params.n_ctx, params.n_parallel, params.warmup = batch * (prompt + short + tokens + 64), batch, False
params.n_batch = params.n_ubatch = max(prompt, 512)
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
server = xllamacpp.Server(params)


def complete(ids, limit):
    """A greedy answer of so many tokens."""
    request = {"prompt": ids, "max_tokens": limit, "temperature": 0.0, "top_k": 1, "cache_prompt": False, "ignore_eos": True}
    reply = server.handle_completions(request)
    reply = reply if isinstance(reply, dict) else json.loads(reply)
    if reply["usage"]["completion_tokens"] != limit or reply["usage"]["prompt_tokens"] != len(ids):
        raise SystemExit(f"llama.cpp made another number of tokens than it was asked for: {reply['usage']}")


def spent(prompts, limit):
    """Seconds of wall and of processor that their answers take, asked for at once."""
    wall, cpu = time.perf_counter(), time.process_time()
    list(askers.map(lambda ids: complete(ids, limit), prompts))
    return time.perf_counter() - wall, time.process_time() - cpu


def ids_of(seed, count):
    return [(seed * 31 + n * n * 7 + n) % 256 for n in range(count)]


def measure(seed):
    prefill = spent([ids_of(seed, prompt)], 1)
    # The one token is made from the prompt's own logits: what is left is the steps.
    shorts = [ids_of(seed + 1000 * i, short) for i in range(batch)]
    alone, whole = spent(shorts, 1), spent(shorts, tokens + 1)
    decode = [all_ - one for all_, one in zip(whole, alone)]
    return {
        "prefill": {"wall": prefill[0], "cpu": prefill[1]},
        "decode": {"wall": decode[0], "cpu": decode[1]},
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


askers = ThreadPoolExecutor(batch)
print(json.dumps({"version": getattr(xllamacpp, "__version__", "unknown")}), flush=True)
for line in sys.stdin:
    print(json.dumps(measure(int(line))), flush=True)
