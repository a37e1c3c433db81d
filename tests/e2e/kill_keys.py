"""kill -9 right after answers: the same request gets the same bytes after the restart, and no key forgets what it spent.

usage: kill_keys.py STOA_BINARY DATA_FOLDER"""

import http.client
import json
import signal
import subprocess
import sys
import urllib.parse

stoa, data = sys.argv[1:3]
KILLS = 6


def start():
    command = [stoa, "up", "--json", "--port", "0", "--batch-seconds", "2", "--data", data]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return process, json.loads(process.stdout.readline())


def call(network, path, body=None, key=None, **headers):
    url = urllib.parse.urlsplit(network["api"])
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    headers = {"authorization": f"Bearer {key or network['key']}", "content-type": "application/json", **headers}
    method = "GET" if body is None else "POST"
    connection.request(method, url.path + path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


process, network = start()
try:
    model = network["models"][0]
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 8}
    made = json.loads(call(network, "/stoa/keys", {"spend_limit": {"amount": "1", "period": "total"}})[2])
    spent = 0
    for number in range(KILLS):
        once = {"Idempotency-Key": f"kill {number}"}
        first = call(network, "/chat/completions", chat, made["secret"], **once)
        assert first[0] == 200, first
        spent += int(json.loads(first[2])["stoa"]["receipt"]["receipt"]["charge"])
        process.kill()
        process.wait()
        process, network = start()
        again = call(network, "/chat/completions", chat, made["secret"], **once)
        assert again[0] == 200 and again[2] == first[2], (first, again)
        assert again[1].get("x-stoa-idempotent-replay") == "true", again
        row = json.loads(call(network, f"/stoa/keys/{made['id']}")[2])
        assert row["spent"] == f"0.{spent:06}".rstrip("0"), (row, spent)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
finally:
    process.kill()
print(f"{KILLS} kills after answers: the same bytes each time, spend kept to the unit")
