"""Roles on hosts of their own: network namespaces on one bridge, each provider behind a NAT of its own.

Starts a chain, two routers, three providers, two validators and a developer, then makes paid calls from several threads while every role is killed (-9) or cut
off once. Afterwards the books of both routers are compared with what the client was told: nothing that was acknowledged may be missing,
nothing may be charged that the client was not told of, and no call may be charged twice. Every provider claims: what it is told of and what it
gets is, with the fees, what was charged.

Runs inside `unshare --map-root-user --net --mount --pid --fork --kill-child`, which `cargo xtask hosts` does: it needs no privileges and leaves no trace on the
machine. Standard library only.
"""

import argparse
import http.client
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

SWITCH = "switch"
DEVELOPER = "198.18.0.1"
PATIENCE = 60
# Seconds over which the calls are spread.
SPREAD = 160
# Seconds of a batch. The phases of an audit follow from it: who is away for one of them is punished.
BATCH = 10
# Stake tokens of each role. Who is killed again and again misses ballots or withholds leaf files, which costs stake: it can put it back.
STAKE = 1_000_000
# Seconds that all of it may take.
LIMIT = 900


def sh(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def inside(namespace, *words):
    return sh("ip", "netns", "exec", namespace, *words)


class Wire:
    """A host's cable to the switch, which can be pulled."""

    def __init__(self, namespace, address):
        self.port = f"p-{namespace}"
        sh("ip", "netns", "add", namespace)
        sh("ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        sh("ip", "link", "set", self.port, "master", SWITCH, "up")
        inside(namespace, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
        inside(namespace, "ip", "link", "set", "eth0", "up")
        inside(namespace, "ip", "link", "set", "lo", "up")

    def pull(self):
        sh("ip", "link", "set", self.port, "down")

    def plug(self):
        sh("ip", "link", "set", self.port, "up")


def nat(number):
    """A home: a provider's namespace behind a router that masks its address and lets nothing in that was not asked for."""
    outside, home = f"nat{number}", f"home{number}"
    wire = Wire(outside, f"198.18.0.{30 + number}")
    sh("ip", "netns", "add", home)
    sh("ip", "link", "add", "lan", "netns", outside, "type", "veth", "peer", "name", "eth0", "netns", home)
    inside(outside, "ip", "addr", "add", "192.168.1.1/24", "dev", "lan")
    inside(outside, "ip", "link", "set", "lan", "up")
    inside(outside, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    rules = """
add table ip nat
add chain ip nat post { type nat hook postrouting priority 100; }
add rule ip nat post oifname "eth0" masquerade
add table ip filter
add chain ip filter forward { type filter hook forward priority 0; policy drop; }
add rule ip filter forward iifname "lan" accept
add rule ip filter forward ct state established,related accept
add chain ip filter input { type filter hook input priority 0; policy drop; }
add rule ip filter input ct state established,related accept
"""
    subprocess.run(["ip", "netns", "exec", outside, "nft", "-f", "-"], input=rules, text=True, check=True)
    inside(home, "ip", "addr", "add", "192.168.1.2/24", "dev", "eth0")
    inside(home, "ip", "link", "set", "eth0", "up")
    inside(home, "ip", "link", "set", "lo", "up")
    inside(home, "ip", "route", "add", "default", "via", "192.168.1.1")
    return wire, home


class Role:
    """One process of Stoa on a host of its own."""

    def __init__(self, name, namespace, wire, stoa, folder, arguments):
        self.name, self.namespace, self.wire = name, namespace, wire
        self.data = f"{folder}/{name}"
        self.command = ["ip", "netns", "exec", namespace, stoa, "--data", self.data, *arguments, "--json"]
        self.process, self.ready, self.starts = None, None, []

    def start(self):
        began = time.monotonic()
        log = open(f"{self.data}.log", "a")
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended at its start; see {self.data}.log")
        self.ready = json.loads(line)
        self.starts.append(time.monotonic() - began)
        return self

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{self.name} did not stop within {PATIENCE} s")


def account_of(data):
    """Waits for a role's line about the stake it lacks, and gives its account."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            with open(f"{data}.log") as log:
                for line in log:
                    if line.startswith("waiting for stake"):
                        return next(word.rstrip(",") for word in line.split() if word.startswith("0x"))
        except FileNotFoundError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{data}: no word about stake")


class Outcome:
    """What the client knows of one call in the end."""

    def __init__(self):
        self.receipt = None  # (router, job, charge)
        self.errors = []  # (router, status, code, billed)
        self.unknown = 0  # connections that broke with the call under way


class Unsent(Exception):
    """Nothing of the call left this host."""


class Client:
    """A developer with two routers. A call goes on under its Idempotency-Key at the router that may have charged it; it goes elsewhere
    only when the first router got nothing or said that it could not serve."""

    def __init__(self, routers):
        self.routers = routers

    def call(self, number, stop):
        outcome = Outcome()
        at, round_ = number % 2, 0
        body = json.dumps({"model": "stoa-tiny", "messages": [{"role": "user", "content": f"Call {number}"}], "max_tokens": 12})
        tied = False  # to this router, until it has said what became of the call
        while time.monotonic() < stop:
            router = self.routers[at]
            key = f"call-{number}-{round_}"
            try:
                status, headers, answer = self.post(router, body, key)
            except Unsent:
                if not tied:
                    at, round_ = 1 - at, round_ + 1
                time.sleep(0.1)
                continue
            except (OSError, http.client.HTTPException):
                # Nobody knows whether it arrived: the same router is asked again with the same key.
                outcome.unknown += 1
                tied = True
                time.sleep(0.1)
                continue
            if status == 200:
                receipt = answer["stoa"]["receipt"]["receipt"]
                outcome.receipt = (router["account"], receipt["job_id"], receipt["charge"])
                return outcome
            error = answer.get("error", {})
            stoa = error.get("stoa") or {}
            outcome.errors.append((router["account"], status, error.get("code"), stoa.get("billed"), stoa.get("receipt_id")))
            if error.get("code") == "idempotency_key_in_use":
                time.sleep(0.1)
                continue
            if stoa.get("receipt_id"):
                # Charged, and the answer was lost with the router: said so.
                return outcome
            tied, at, round_ = False, 1 - at, round_ + 1
            time.sleep(0.05)
        return outcome

    def post(self, router, body, key):
        url = urllib.parse.urlsplit(router["api"])
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=2)
        try:
            try:
                connection.connect()
            except OSError as error:
                raise Unsent from error
            connection.sock.settimeout(20)
            headers = {"authorization": f"Bearer {router['key']}", "content-type": "application/json", "idempotency-key": key}
            connection.request("POST", url.path + "/chat/completions", body, headers)
            response = connection.getresponse()
            text = response.read()
            return response.status, dict(response.getheaders()), json.loads(text)
        finally:
            connection.close()


class Town:
    """All hosts and roles."""

    def __init__(self, stoa, folder):
        self.stoa, self.folder = stoa, folder
        sh("mount", "-t", "tmpfs", "tmpfs", "/run")
        os.makedirs("/run/netns")
        sh("ip", "link", "set", "lo", "up")
        sh("ip", "link", "add", SWITCH, "type", "bridge")
        sh("ip", "addr", "add", f"{DEVELOPER}/24", "dev", SWITCH)
        sh("ip", "link", "set", SWITCH, "up")
        self.join = f"{folder}/chain/join.json"
        self.chain = self.role("chain", Wire("chain", "198.18.0.10"), "chain", "chain", "--listen", "198.18.0.10:8545", "--batch-seconds", str(BATCH))
        self.chain.start()
        self.routers = [self.router(n) for n in (1, 2)]
        self.providers = [self.provider(n) for n in (1, 2, 3)]
        self.validators = [self.validator(n) for n in (1, 2)]

    def role(self, name, wire, namespace, *arguments):
        return Role(name, namespace, wire, self.stoa, self.folder, arguments)

    def fund(self, account, stake):
        sh(self.stoa, "--data", f"{self.folder}/chain", "fund", account, "--stake", str(stake))

    def starting(self, role, stake=STAKE):
        """Starts a role that waits for its stake at its first start, and gives it that."""
        thread = threading.Thread(target=role.start)
        thread.start()
        account = account_of(role.data)
        self.fund(account, stake)
        return thread, account

    def router(self, number):
        name, address = f"router{number}", f"198.18.0.{20 + number}"
        settings = f"{self.folder}/{name}.toml"
        open(settings, "w").close()
        role = self.role(
            name, Wire(name, address), name, "router", "--join", self.join, "--listen", f"{address}:9700",
            "--api", f"{address}:8080", "--metrics", f"{address}:9464", "--config", settings,
        )
        thread, account = self.starting(role)
        thread.join(PATIENCE)
        role.account, role.api = account, f"http://{address}:8080/v1"
        told = json.loads(sh(
            self.stoa, "--data", f"{self.folder}/developer", "connect", "--join", self.join, "--router", account, "--api", role.api, "--json"
        ))
        role.key = told["key"]
        with open(settings, "w") as file:
            file.write(f'[router]\nkeys = [{{ account = "{told["account"]}", hash = "{told["key_hash"]}" }}]\n')
        role.stop()
        return role.start()

    def provider(self, number):
        wire, home = nat(number)
        role = self.role(f"provider{number}", wire, home, "provider", "--join", self.join)
        thread, account = self.starting(role)
        thread.join(PATIENCE)
        role.account = account
        return role

    def validator(self, number):
        name = f"validator{number}"
        role = self.role(name, Wire(name, f"198.18.0.{40 + number}"), name, "validator", "--join", self.join)
        thread, role.account = self.starting(role)
        thread.join(PATIENCE)
        return role

    def stop(self):
        for role in [*self.validators, *self.providers, *self.routers]:
            role.stop()
        self.chain.stop()

    def vault(self, selector, *accounts):
        """Words that a view of the vault returns; its selector is the first four bytes of the keccak of its signature."""
        with open(self.join) as file:
            network = json.load(file)
        words = "".join(account.removeprefix("0x").rjust(64, "0") for account in accounts)
        call = [{"to": network["contracts"]["vault"], "data": selector + words}, "latest"]
        url = urllib.parse.urlsplit(network["rpc"])
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE)
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": call})
        connection.request("POST", url.path or "/", body, {"content-type": "application/json"})
        answer = json.loads(connection.getresponse().read())["result"].removeprefix("0x")
        connection.close()
        return [int(answer[at:at + 64], 16) for at in range(0, len(answer), 64)]

    def claims(self):
        """Every provider claims from its home, while it runs: what each router said of its earnings, and what came of it."""
        rows = []
        for role in self.providers:
            rows += json.loads(inside(role.namespace, self.stoa, "--data", role.data, "claim", "--json"))
        return rows

    def books(self, router):
        return json.loads(sh(self.stoa, "--data", router.data, "audit", "--json"))


def mishaps(town):
    """Every role once killed and once cut off. Each is over before the next begins, and leaves somebody who can serve."""
    chain, (first, second), (one, two, three) = town.chain, town.routers, town.providers
    judge, other = town.validators

    def kill(role):
        return f"kill -9 {role.name}", role.kill, role.start

    def cut(role, seconds):
        def back():
            time.sleep(seconds)
            role.wire.plug()
        return f"cut off {role.name} for {seconds} s", role.wire.pull, back

    def freeze(role, seconds):
        def thaw():
            time.sleep(seconds)
            role.process.send_signal(signal.SIGCONT)
        return f"freeze {role.name} for {seconds} s", lambda: role.process.send_signal(signal.SIGSTOP), thaw

    return [
        kill(one), cut(two, 7), kill(first), cut(second, 7), kill(judge), kill(chain), cut(chain, 5), kill(three), freeze(two, 4), cut(other, 4),
        kill(second), cut(first, 4),
    ]


def storm(town, kills):
    """Kills every kind of role so often, under load. Gives the slowest restart of each."""
    slowest, faults = {}, []

    def strike(kind, roles):
        for number in range(kills):
            role = roles[number % len(roles)]
            time.sleep(random.uniform(0.1, 0.8))
            role.kill()
            try:
                role.start()
            except SystemExit as error:
                faults.append(str(error))
                return
            slowest[kind] = max(slowest.get(kind, 0), role.starts[-1])

    def side_by_side(**kinds):
        strikers = [threading.Thread(target=strike, args=kind) for kind in kinds.items()]
        for striker in strikers:
            striker.start()
        for striker in strikers:
            striker.join()

    # The chain alone: everybody waits for it, and their restarts would measure that.
    side_by_side(chain=[town.chain])
    side_by_side(router=town.routers, provider=town.providers, validator=town.validators)
    return slowest, faults


def load(client, calls, threads):
    numbers, outcomes = queue.Queue(), {}
    for number in range(calls):
        numbers.put(number)

    def work():
        while not numbers.empty():
            try:
                number = numbers.get_nowait()
            except queue.Empty:
                return
            outcomes[number] = client.call(number, time.monotonic() + PATIENCE)
            # Spread over the mishaps.
            time.sleep(random.uniform(0, 2 * threads * SPREAD / calls))

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    return workers, outcomes


def judge(town, outcomes, rows):
    faults, told = [], {}
    for number, outcome in sorted(outcomes.items()):
        if outcome.receipt:
            router, job, charge = outcome.receipt
            if (router, job) in told:
                faults.append(f"calls {told[router, job]} and {number} have one receipt")
            told[router, job] = number
        for router, status, code, billed, receipt in outcome.errors:
            if receipt:
                told[router, receipt] = number
            elif code is None or billed not in ("0", "0.000000", None):
                faults.append(f"call {number}: {status} {code} billed {billed} without a receipt")
        if not outcome.receipt and not any(error[4] for error in outcome.errors):
            faults.append(f"call {number} was never answered: {outcome.errors[-3:]}")
    charged = 0
    for router in town.routers:
        books = town.books(router)
        if not books["conserved"]:
            faults.append(f"the books of {router.name} do not balance")
        faults += earned(router, books, rows)
        for job in books["charged"]:
            charged += 1
            if (router.account, job) not in told:
                faults.append(f"{router.name} charged {job}, of which the client was told nothing")
        for account, job in told:
            if account == router.account and job not in books["charged"]:
                faults.append(f"{router.name} lost {job}, which it had acknowledged")
    for number, outcome in outcomes.items():
        receipts = {error[4] for error in outcome.errors if error[4]} | ({outcome.receipt[1]} if outcome.receipt else set())
        if len(receipts) > 1:
            faults.append(f"call {number} was charged {len(receipts)} times")
    return faults, charged


def collected(town, rows):
    """To the unit: what was claimed is what the providers got and what the vault keeps of it for routers and protocol."""
    gross, got = (sum(int(row[part]) for row in rows) for part in ("gross", "paid"))
    owed, protocol = "0xdf18e047", "0xf069b9ed"
    fees = sum(town.vault(owed, router.account)[0] for router in town.routers) + sum(town.vault(protocol))
    if gross == 0 or gross != got + fees:
        return gross, [f"{gross} were claimed, {got} paid out, and the vault keeps {fees} as fees"]
    return gross, []


def earned(router, books, rows):
    """To the unit: what a router told its providers of, claimed now or later, is what it charged and no ruling took back."""
    own = [row for row in rows if row.get("router") == router.account]
    told = sum(int(row[part]) for row in own for part in ("gross", "waiting", "not_claimable_yet"))
    right = sum(int(charge) for job, charge in books["charged"].items() if job not in books["reversed"])
    return [] if told == right else [f"{router.name} charged {right} and told its providers of {told}"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stoa", required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--kills", type=int, default=50, help="of each kind of role, in the storm at the end")
    arguments = parser.parse_args()
    # Whatever hangs is a fault; the logs say where.
    signal.alarm(LIMIT)
    began = time.monotonic()
    town = Town(arguments.stoa, arguments.folder)
    print(f"{len(town.routers)} routers, {len(town.providers)} providers behind NAT, {len(town.validators)} validators and a chain are up after {time.monotonic() - began:.1f} s", flush=True)
    events = mishaps(town)
    client = Client([{"account": r.account, "api": r.api, "key": r.key} for r in town.routers])
    workers, outcomes = load(client, arguments.calls, arguments.threads)
    for what, strike, heal in events:
        time.sleep(1.5)
        before = len(outcomes)
        strike()
        heal()
        print(f"{what}: {len(outcomes) - before} calls ended meanwhile", flush=True)
    slowest, faults = storm(town, arguments.kills)
    print(f"{arguments.kills} kills of each role: {len(outcomes)} of {arguments.calls} calls have ended", flush=True)
    for worker in workers:
        worker.join()
    # Whatever is still to be posted has the time of some batches.
    time.sleep(5)
    started = time.monotonic()
    rows = town.claims()
    print(f"{len(town.providers)} providers claimed in {time.monotonic() - started:.1f} s", flush=True)
    claimed, more = collected(town, rows)
    faults += more
    town.stop()
    more, charged = judge(town, outcomes, rows)
    faults += more
    answered = sum(1 for outcome in outcomes.values() if outcome.receipt)
    told = {}
    for outcome in outcomes.values():
        for _, status, code, *_ in outcome.errors:
            told[f"{status} {code}"] = told.get(f"{status} {code}", 0) + 1
    print(json.dumps({
        "calls": len(outcomes), "answered": answered, "charged": charged, "claimed": claimed, "errors_told": told,
        "connections_broken": sum(outcome.unknown for outcome in outcomes.values()),
        "slowest_restart_s": {name: round(seconds, 2) for name, seconds in slowest.items()}, "faults": len(faults),
    }))
    for fault in faults[:20]:
        print("FAULT", fault, file=sys.stderr)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
