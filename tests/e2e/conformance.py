"""Public suites against a running network: openai-python's own tests, and schemathesis over our OpenAPI description.

usage: conformance.py BASE_URL KEY MODEL WORK_FOLDER"""

import hashlib
import http.client
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import urllib.parse

base, key, model, work = sys.argv[1:5]
here, work = pathlib.Path(__file__).resolve().parent, pathlib.Path(work).resolve()
url = urllib.parse.urlsplit(base)
root = f"{url.scheme}://{url.netloc}"

OPENAI = "3.54.0"
SDIST_SHA256 = "2e393e63f8a38be6452806f9ef0b6534fecd6d41ab3b2165180dfce3599249cd"
FILES = ["chat/test_completions.py", "test_completions.py", "test_embeddings.py", "test_models.py"]
SELECT = "((create and not models) or (test_models and (list or retrieve))) and not aiohttp"
# They name no form, so the client asks for base64 and gets it; their strict client then demands numbers before it has decoded it.
EXCLUDED = [
    f"tests/api_resources/test_embeddings.py::{group}::{case}[strict]"
    for group in ("TestEmbeddings", "TestAsyncEmbeddings")
    for case in ("test_method_create", "test_raw_response_create", "test_streaming_response_create")
]
PASSED = 102
CHECKS = "not_a_server_error,response_schema_conformance,content_type_conformance,status_code_conformance,ignored_auth"


def call(method, path, body=None, **headers):
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=60)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    return response.status, dict(response.getheaders()), response.read()


def openai_suite():
    folder = work / "sdist"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", f"openai=={OPENAI}"]
    subprocess.run([*command, "-d", str(folder)], check=True)
    archive = folder / f"openai-{OPENAI}.tar.gz"
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert found == SDIST_SHA256, f"the sdist of openai {OPENAI} has the hash {found}"
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    suite = folder / f"openai-{OPENAI}"
    proxy = subprocess.Popen(
        [sys.executable, str(here / "alias_proxy.py"), base, key, model], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        aliased = proxy.stdout.readline().strip()
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--durations=0", "-p", "no:cacheprovider", "-k", SELECT]
        command += [f"tests/api_resources/{file}" for file in FILES]
        command += [f"--deselect={name}" for name in EXCLUDED]
        env = {**os.environ, "TEST_API_BASE_URL": aliased, "NO_PROXY": "127.0.0.1"}
        run = subprocess.run(command, cwd=suite, env=env, capture_output=True, text=True, timeout=600)
    finally:
        proxy.kill()
    last = run.stdout.strip().splitlines()[-1:]
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert f"{PASSED} passed" in last[0], f"another number of cases than {PASSED}: {last}"
    print("openai-python's own tests:", last[0].strip("= "), f"({len(EXCLUDED)} excluded by name)")


def description(job):
    """Ours, with values that exist, so that generated calls reach the router and not only its refusals."""
    status, _, body = call("GET", "/openapi.json")
    assert status == 200, status
    described = json.loads(body)
    schemas = described["components"]["schemas"]
    for name in ("ChatRequest", "CompletionRequest"):
        schemas[name]["properties"]["model"] = {"enum": [model]}
        schemas[name]["properties"]["max_tokens"] = {"type": "integer", "minimum": 0, "maximum": 8}
        schemas[name]["required"].append("max_tokens")
    schemas["ChatRequest"]["properties"].pop("max_completion_tokens")
    schemas["EmbeddingRequest"]["properties"]["model"] = {"enum": [model]}
    for path, item in described["paths"].items():
        for operation in item.values():
            for parameter in operation["parameters"]:
                if parameter["name"] == "job":
                    parameter["schema"] = {"enum": [job, "0x" + "0" * 64, "nonsense"]}
                if path.startswith("/v1/models") and parameter["name"] == "id":
                    parameter["schema"] = {"enum": [model, "no/such"]}
    file = work / "openapi.json"
    file.write_text(json.dumps(described))
    return file


def schemathesis():
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 4}
    status, headers, _ = call("POST", "/v1/chat/completions", chat)
    assert status == 200, status
    file = description(headers["x-stoa-job"])
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [str(program), "run", str(file), "--url", root, "-H", f"Authorization: Bearer {key}", "--no-color"]
    command += ["--include-path-regex", "^/(v1|openapi|health)", "--checks", CHECKS, "--seed", "7", "--max-examples", "20"]
    run = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    figures = [line.strip() for line in run.stdout.splitlines() if line.strip().startswith("Tested:") or " generated, " in line]
    print("schemathesis:", "; ".join(figures))


def retries():
    """A request sent again over the real router: the same bytes, one job."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Once"}], "max_completion_tokens": 8}
    first, again = (call("POST", "/v1/chat/completions", chat, **{"Idempotency-Key": "conformance"}) for _ in range(2))
    assert first[0] == again[0] == 200 and first[2] == again[2]
    assert again[1].get("x-stoa-idempotent-replay") == "true"
    jobs = json.loads(call("GET", "/v1/stoa/jobs")[2])["data"]
    assert sum(job["job"] == first[1]["x-stoa-job"] for job in jobs) == 1


def keys():
    """A key with a spend limit stops at it, and a revoked one is refused at once."""
    made = json.loads(call("POST", "/v1/stoa/keys", {"spend_limit": {"amount": "0.0005", "period": "day"}})[2])
    chat = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_completion_tokens": 200}
    spent, codes = 0, []
    for _ in range(200):
        status, headers, body = call("POST", "/v1/chat/completions", chat, authorization=f"Bearer {made['secret']}")
        answer = json.loads(body)
        if status != 200:
            codes.append((status, answer["error"]["code"]))
            break
        spent += int(answer["stoa"]["receipt"]["receipt"]["charge"])
        left = 500 - spent
        assert headers["x-stoa-budget-remaining"] == (f"0.{left:06}".rstrip("0") if left else "0"), headers
    assert codes == [(429, "budget_exceeded")] and 0 < spent <= 500, (codes, spent)
    row = json.loads(call("GET", f"/v1/stoa/keys/{made['id']}")[2])
    assert row["spent"] == f"0.{spent:06}".rstrip("0"), (row["spent"], spent)
    status, _, body = call("GET", "/v1/stoa/keys/self", authorization=f"Bearer {made['secret']}")
    assert status == 200 and json.loads(body) == row, (status, body)
    assert row["alerts_percent"][:2] == [50, 80], row
    assert call("DELETE", f"/v1/stoa/keys/{made['id']}")[0] == 200
    assert call("GET", "/v1/models", authorization=f"Bearer {made['secret']}")[0] == 401


def failed_calls():
    """Why a call failed is told to whoever made it."""
    chat = {"model": model, "messages": [{"role": "user", "content": "word " * 5000}]}
    status, headers, _ = call("POST", "/v1/chat/completions", chat)
    assert status == 400, status
    assert call("GET", "/v1/stoa/explain/" + headers["x-request-id"])[0] == 200


retries()
failed_calls()
keys()
openai_suite()
schemathesis()
