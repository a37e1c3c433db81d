"""What Stoa adds to an OpenAI-compatible server: the same requests go to the server itself and through `stoa up --upstream`, in turns.

usage: upstream_bench.py SERVER_URL SERVER_MODEL STOA_BASE_URL STOA_KEY STOA_MODEL [CALLS [STREAMS [ROUNDS [TOKENS [EACH]]]]]

Prints one line of JSON: medians of the time to the first token one call at a time, and what all streams together bring a second while each
makes EACH calls one after the other. The calls of both sides are the same, without chance in them. Their share is that of text a second,
for both count tokens in their own way: a server counts the end token, Stoa bills what was shown."""

import http.client
import json
import statistics
import sys
import threading
import time
import urllib.parse

server, server_model, stoa, key, stoa_model = sys.argv[1:6]
calls, streams, rounds, tokens, each = (int(n) for n in (sys.argv[6:] + ["100", "8", "5", "200", "10"][len(sys.argv) - 6 :]))
base = server.rstrip("/")
SIDES = {"direct": (base if base.endswith("/v1") else base + "/v1", server_model, ""), "stoa": (stoa, stoa_model, key)}


class Side:
    """One connection that is kept, as an SDK keeps it."""

    def __init__(self, name):
        self.base, self.model, self.key = SIDES[name]
        self.url = urllib.parse.urlsplit(self.base)
        self.connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=120)

    def stream(self, prompt, limit):
        """Seconds to the first text, bytes of the answer's events' text, and the number of tokens by the usage told."""
        body = {"model": self.model, "messages": [{"role": "user", "content": prompt}], "stream": True, "max_tokens": limit}
        body |= {"stream_options": {"include_usage": True}, "temperature": 0}
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        start, first, usage, text = time.perf_counter(), None, None, 0
        try:
            self.connection.request("POST", self.url.path + "/chat/completions", json.dumps(body), headers)
            response = self.connection.getresponse()
        except (http.client.HTTPException, OSError):
            self.connection.close()
            return self.stream(prompt, limit)
        if response.status != 200:
            raise SystemExit(f"{self.base}: status {response.status}: {response.read()[:500]!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            usage = event.get("usage") or usage
            content = event["choices"] and event["choices"][0]["delta"].get("content")
            if content:
                first = first or time.perf_counter() - start
                text += len(content)
        return first, text, usage["completion_tokens"]


def first_tokens():
    """No prompt is sent twice: the server keeps the last ones, and whoever came second with one would find it computed."""
    sides, times = {name: Side(name) for name in SIDES}, {name: [] for name in SIDES}
    for number in range(2 * (calls + 5)):
        name = ("direct", "stoa", "stoa", "direct")[number % 4]
        first, _, _ = sides[name].stream(f"Hello number {1000 + number}", 4)
        if number >= 10 and first is not None:
            times[name].append(first * 1000)
    return times


def throughput(name):
    """Characters and tokens a second."""
    answers = []

    def one(number):
        side = Side(name)
        for call in range(each):
            answers.append(side.stream(f"Write a long story about {number * each + call} ships", tokens))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(streams)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    return sum(text for _, text, _ in answers) / seconds, sum(count for _, _, count in answers) / seconds


times = first_tokens()
added = statistics.median(times["stoa"]) - statistics.median(times["direct"])
rates = {name: [] for name in SIDES}
for number in range(rounds):
    for name in ("direct", "stoa") if number % 2 else ("stoa", "direct"):
        rates[name].append(throughput(name))
p50 = {name: round(statistics.median(values), 3) for name, values in times.items()}
rate = {name: round(statistics.median(tokens for _, tokens in values), 1) for name, values in rates.items()}
share = statistics.median(s[0] / d[0] for s, d in zip(rates["stoa"], rates["direct"]))
print(
    json.dumps(
        {
            "calls": calls,
            "first_token_ms_p50": p50,
            "added_ms_p50": round(added, 3),
            "streams": streams,
            "tokens_per_second": rate,
            "share": round(share, 4),
        }
    )
)
