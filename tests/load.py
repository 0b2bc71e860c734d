"""Throughput and latency of the local host: one client, one connection, a fresh data directory.

Run it with `make bench`; it prints
  accepted readings per second, in posts of 500 (full detector readings with a 25 m profile, and controller events)
  time from the POST of one step (21 junctions, 400 readings) until all 21 plans show it in GET /v1/plans
"""

import datetime
import http.client
import json
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
DAY = datetime.datetime(2026, 3, 1)
JUNCTIONS, READINGS, STEPS = 21, 400, 300


class Client:
    def __init__(self, address):
        host, port = address.split(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=60)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, method, path, body=None):
        self.connection.request(method, path, body, {"content-type": "application/json"})
        response = self.connection.getresponse()
        content = response.read()
        if response.status not in (200, 201, 202):
            sys.exit(f"{method} {path}: {response.status} {content[:300]!r}")
        return json.loads(content)


def stamp(seconds):
    return (DAY + datetime.timedelta(seconds=seconds)).isoformat(timespec="milliseconds") + "Z"


def detector(junction, name, at):
    return {
        "type": "detector", "intersection_id": junction, "detector_id": name, "time": at, "period_s": 5, "volume": 2,
        "occupancy": 0.31, "speed_mean_kmh": 21.5, "vehicles": 6.0, "queue": 4.0,
        "profile": {"bin_m": 25, "vehicles": [3, 2, 0, 1, 0, 0, 0, 0], "moving": [0, 1, 0, 1, 0, 0, 0, 0],
                    "speed_mean_kmh": [None, 18.0, None, 47.5, None, None, None, None]},
    }


def event(n, at):
    return {"type": "controller_event", "intersection_id": f"H{n % 10}", "time": at, "code": 82, "parameter": n % 64}


def throughput(client, name, bodies):
    start, times = time.perf_counter(), []
    for body in bodies:
        before = time.perf_counter()
        client.call("POST", "/v1/readings", body)
        times.append(1000 * (time.perf_counter() - before))
    rate = 500 * len(bodies) / (time.perf_counter() - start)
    print(f"{name:18} {rate:8.0f} readings/s   post of 500: median {statistics.median(times):.1f} ms, slowest {max(times):.1f} ms")


def latency(client):
    document = json.loads((ROOT / "events/intersection.json").read_text())
    names = [lane["detector_id"] for lane in document["lanes"]]
    for j in range(JUNCTIONS):
        client.call("PUT", f"/v1/intersections/S{j}", json.dumps({**document, "id": f"S{j}"}))
    times = []
    for step in range(STEPS):
        at = stamp(5 * step)
        readings = [{"type": "signal_state", "intersection_id": f"S{j}", "time": at, "stage": "0", "stage_elapsed_s": 5 * step % 45}
                    for j in range(JUNCTIONS)]
        for n in range(READINGS - JUNCTIONS):
            turn = n // JUNCTIONS
            name = names[turn] if turn < len(names) else f"other-{turn}"
            readings.append(detector(f"S{n % JUNCTIONS}", name, at))
        body, before, shown = json.dumps(readings), time.perf_counter(), 0
        client.call("POST", "/v1/readings", body)
        while shown < JUNCTIONS:
            plans = client.call("GET", "/v1/plans?prefix=S&limit=500")["items"]
            shown = sum(plan["as_of"] == at for plan in plans)
        times.append(1000 * (time.perf_counter() - before))
    times.sort()
    print(f"{JUNCTIONS} junctions, {READINGS} readings: POST to all plans visible: median {statistics.median(times):.1f} ms, "
          f"95 % {times[int(0.95 * STEPS)]:.1f} ms, slowest {times[-1]:.1f} ms")


def main(binary):
    with tempfile.TemporaryDirectory() as directory:
        server = subprocess.Popen([binary, "serve", "--port", "0", "--data-dir", directory], stdout=subprocess.PIPE, text=True)
        try:
            client = Client(server.stdout.readline().split("http://")[1].split()[0])
            steps = [[detector(f"L{n % 10}", f"d{n // 10}", stamp(60 * s)) for n in range(500)] for s in range(200)]
            throughput(client, "detector readings", [json.dumps({"readings": readings}) for readings in steps])
            throughput(client, "controller events", [json.dumps([event(n, stamp(s)) for n in range(500)]) for s in range(400)])
            latency(client)
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main(sys.argv[1])
