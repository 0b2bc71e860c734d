"""Road networks that nobody has tuned for, in the layout of a scenario: made by SUMO's netgenerate, with demand drawn from a seed, or
those of RESCO that the harness does not come with."""

import os
import random
import re
import subprocess
import sys
import xml.etree.ElementTree
import zipfile

SECONDS = 3600
ALL_SIGNALS = ["--default-junction-type", "traffic_light", "--tls.guess", "true", "--no-turnarounds", "true"]


def uniform(trips):
    """So many trips an hour, between each two ends, some pairs far busier than others."""

    def flows(ends, draw):
        weights = {(a, b): draw.random() ** 2 for a in ends for b in ends if a != b}
        total = sum(weights.values())
        return {pair: trips * weight / total for pair, weight in weights.items()}

    return flows


def arterial(main, cross):
    """Trips an hour along the main street, seven tenths of them back, and from each side street straight on; a fifth of those to each end."""

    def flows(ends, draw):
        west, east = sorted(end for end in ends if end.startswith(("left", "right")))
        rates = {(west, east): main, (east, west): 0.7 * main}
        for side in [end for end in ends if end not in (west, east)]:
            opposite = next(end for end in ends if end != side and end not in (west, east) and end[-1] == side[-1])
            rates |= {(side, opposite): cross, (side, west): cross / 5, (side, east): cross / 5, (west, side): cross / 5, (east, side): cross / 5}
        return rates

    return flows


NETWORKS = {
    "grid": (
        "--grid --grid.x-number 5 --grid.y-number 3 --grid.length 220 --grid.attach-length 250 -L 2 --turn-lanes 1 --turn-lanes.length 60",
        uniform(5500),
    ),
    "village": ("--grid --grid.number 3 --grid.length 130 --grid.attach-length 200 -L 1", uniform(2000)),
    "arterial": (
        "--grid --grid.x-number 7 --grid.y-number 1 --grid.x-length 230 --grid.y-length 230 --grid.attach-length 250 -L 2",
        arterial(800, 150),
    ),
    "random": ("--rand --rand.iterations 30 --rand.min-distance 100 --rand.max-distance 250 --seed 11 -L 1", uniform(1200)),
}


def make(directory, python):
    """Writes each network into a folder of its name, with a program of SUMO's own for each signal and routes for an hour."""
    binaries = next(python.parents[1].glob("lib/*/site-packages/sumo/bin"))
    for name, (shape, flows) in NETWORKS.items():
        folder = directory / name
        folder.mkdir(parents=True)
        network, trips = folder / f"{name}.net.xml", folder / "trips.xml"
        run(binaries / "netgenerate", *shape.split(), *ALL_SIGNALS, "--output-file", network)
        inward, outward = ends_of(network)
        draw = random.Random(name)
        departures = []
        for (origin, destination), hourly in sorted(flows(sorted(inward), draw).items()):
            second = draw.expovariate(hourly / SECONDS)
            while second < SECONDS:
                departures.append((second, inward[origin], outward[destination]))
                second += draw.expovariate(hourly / SECONDS)
        trip = '<trip id="{}" depart="{:.1f}" from="{}" to="{}" departLane="best" departSpeed="max"/>'
        rows = [trip.format(number, *departure) for number, departure in enumerate(sorted(departures))]
        trips.write_text("<routes>\n" + "\n".join(rows) + "\n</routes>\n")
        routes = folder / f"{name}.rou.xml"
        run(binaries / "duarouter", "--net-file", network, "--route-files", trips, "--output-file", routes, "--weights.random-factor", "1.5", "--seed", "1")
        (folder / f"{name}.sumocfg").write_text(
            f'<configuration><input><net-file value="{network.name}"/><route-files value="{routes.name}"/></input>'
            f'<time><begin value="0"/><end value="{SECONDS}"/></time></configuration>\n'
        )


def ends_of(network):
    """Where streets end: the edge that leads in from there, and the one that leads out, by node."""
    edges = [edge for edge in xml.etree.ElementTree.parse(network).getroot().iter("edge") if edge.get("function") != "internal"]
    inward, outward = {}, {}
    for node in {edge.get("from") for edge in edges}:
        away = [edge for edge in edges if edge.get("from") == node]
        here = [edge for edge in edges if edge.get("to") == node]
        named = re.fullmatch(r"(top|bottom|left|right)\d+", node)
        if len(away) == len(here) == 1 and (named or away[0].get("to") == here[0].get("from")):
            inward[node], outward[node] = away[0].get("id"), here[0].get("id")
    return inward, outward


def run(binary, *arguments):
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, env=os.environ | {"SUMO_HOME": str(binary.parent.parent)})
    if done.returncode:
        sys.exit(f"{binary.name} failed: {done.stderr}")


# The package that carries the maps, and what of it is wanted.
CARRIER = "sumo-rl==1.4.5"
RESCO = ("arterial4x4", "cologne8", "grid4x4", "ingolstadt21")


def fetch(directory, python):
    """Takes the maps from the package registry into folders of their names; they belong to others."""
    directory.mkdir()
    if subprocess.run([python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", directory, CARRIER]).returncode:
        sys.exit(f"the maps of RESCO are in the package {CARRIER}, which could not be downloaded")
    with zipfile.ZipFile(next(directory.glob("*.whl"))) as wheel:
        for path in wheel.namelist():
            name, _, file = path.removeprefix("sumo_rl/nets/RESCO/").partition("/")
            if name in RESCO and file:
                # The harness looks for the routes under the name of the map.
                content = wheel.read(path).replace(f"{name}_1.rou.xml".encode(), f"{name}.rou.xml".encode())
                (directory / name).mkdir(exist_ok=True)
                (directory / name / file.replace("_1.rou.xml", ".rou.xml")).write_bytes(content)
