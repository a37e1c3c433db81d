"""Sends chat requests at a steady rate for some seconds, and writes what each was told: job, charge, or error.

usage: load.py BASE_URL KEY MODEL RATE SECONDS OUT"""

import http.client
import json
import sys
import threading
import time
import urllib.parse

base, key, model, rate, seconds, out = sys.argv[1:7]
url = urllib.parse.urlsplit(base)
lock, lines = threading.Lock(), []


def call(number):
    body = json.dumps({"model": model, "max_completion_tokens": 16, "messages": [{"role": "user", "content": f"Hello {number}"}]})
    record = {"number": number}
    try:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", url.path + "/chat/completions", body, headers)
        response = connection.getresponse()
        record["status"] = response.status
        answer = json.loads(response.read())
        if response.status == 200:
            receipt = answer["stoa"]["receipt"]["receipt"]
            record["job"], record["charge"] = receipt["job_id"], receipt["charge"]
        else:
            record["error"] = answer["error"]["code"]
    except (OSError, ValueError, http.client.HTTPException) as error:
        record["error"] = type(error).__name__
    with lock:
        lines.append(record)


threads, start, number = [], time.monotonic(), 0
while time.monotonic() - start < float(seconds):
    thread = threading.Thread(target=call, args=(number,))
    thread.start()
    threads.append(thread)
    number += 1
    time.sleep(max(0.0, start + number / float(rate) - time.monotonic()))
for thread in threads:
    thread.join()
with open(out, "w", encoding="utf-8") as file:
    json.dump(lines, file)
print(f"{len(lines)} calls, {sum('job' in r for r in lines)} answered")
