"""Delay at signals in SUMO: starts the local host, drives it with a closed-loop harness through the public API, prints a table.

The harness and its scenarios are not part of this project; what is missing is said, with how to get it. `--scenarios generated`
and `resco`, or some of their names, need no scenarios of the harness: networks.py makes theirs, or takes them from the package registry.
They measure SUMO's own programs and a greedy controller beside.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import networks
from processes import free_port, processes

# The version on which the published figures of the RESCO scenarios hold.
SUMO = ["eclipse-sumo==1.9.2", "traci==1.9.2", "numpy"]
# Scenarios that the harness does not come with: their names, and the function that brings them.
OTHERS = {"generated": (list(networks.NETWORKS), networks.make), "resco": (list(networks.RESCO), networks.fetch)}
# The harness's own controller for this project, which can do with fewer detectors.
GREENWAVE = "detectors/Greenwave"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("greenwave", type=pathlib.Path, help="the binary")
    parser.add_argument("--bench", type=pathlib.Path, required=True, help="the folder of closed_loop.py; scenarios lie beside it")
    parser.add_argument("--seeds", default="11")
    parser.add_argument("--scenarios", default="cologne1")
    parser.add_argument("--options", default="", help="of the harness, such as allred=2 or miss=0.05,drop=0.1,latency=2, or of detectors.py")
    arguments = parser.parse_args()
    harness = (arguments.bench / "closed_loop.py").resolve()
    if not harness.is_file():
        sys.exit(f"{harness} is missing: name the folder of the closed-loop harness with BENCH=...")
    names, bring = others(arguments.scenarios)
    if not bring:
        scenarios = pathlib.Path(os.environ.get("SCEN_DIR", harness.parents[1] / "scenarios"))
        there = {folder.name for folder in scenarios.glob("*/")}
        unknown = [name for name in names if name not in there]
        if unknown:
            apart = " and ".join(f"{group} ({', '.join(of)})" for group, (of, _) in OTHERS.items())
            sys.exit(f"{', '.join(unknown)}: not a scenario of the harness ({', '.join(sorted(there)) or 'it has none'}); {apart} are run apart")
    python = pathlib.Path(".venv/sumo/bin/python").absolute()
    if not python.is_file():
        print("Setting up SUMO in .venv/sumo ...", flush=True)
        try:
            subprocess.run([sys.executable, "-m", "venv", ".venv/sumo"], check=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *SUMO], check=True)
        except subprocess.CalledProcessError:
            sys.exit(f"SUMO is missing and could not be installed: {' '.join(SUMO)} into .venv/sumo")
    with processes("bench-signals") as started:
        port = free_port()
        command = [arguments.greenwave.resolve(), "serve", "--port", str(port), "--data-dir", started.logs / "data"]
        started.start("greenwave", command, port)
        environment = {"PYTHONPATH": str(pathlib.Path(__file__).parent.resolve())}
        if bring:
            bring(started.logs / "networks", python)
            environment["SCEN_DIR"] = str(started.logs / "networks")
        # Options are Greenwave's alone: with them the others would be no measure.
        beside = ["fixed", "actuated", "greedy"] if bring and not arguments.options else []
        controllers = [f"{GREENWAVE}:url=http://127.0.0.1:{port}" + (f",{arguments.options}" if arguments.options else ""), *beside]
        rows = measure([python, harness, ",".join(names), "--seeds", arguments.seeds], controllers, environment, started.logs)
    table(rows)
    ours = [row for row in rows if row["controller"].startswith(GREENWAVE)]
    # Where plans are made to come late, no cabinet has one for the first seconds.
    delayed = "latency" in arguments.options
    wrong = [row for row in ours if row["forced"] or row["refused"] or row["late"] or (row["fallback_s"] and not delayed)]
    if wrong:
        runs = ", ".join(f"{row['scenario']} {row['seed']}" for row in wrong)
        sys.exit(f"a cabinet refused or overruled a plan or had none, or a plan came late: {runs}")


def others(scenarios):
    """The names of these scenarios, and the function that brings them if the harness does not come with them."""
    asked = scenarios.split(",")
    for group, (names, bring) in OTHERS.items():
        if asked == [group]:
            return names, bring
        if set(asked) <= set(names):
            return asked, bring
    return asked, None


def measure(harness, controllers, environment, directory):
    out = directory / "rows.jsonl"
    options = [option for controller in controllers for option in ("--controller", controller)]
    log = directory / "harness.log"
    with open(log, "w") as output:
        command = [*harness, *options, "--procs", "2", "--out", out]
        failed = subprocess.run(command, stdout=output, stderr=output, env=os.environ | environment).returncode
    if failed:
        said = log.read_text().strip().splitlines() or ["it said nothing"]
        # SUMO complains too when the harness ends, and later.
        raised = [line for line in said if re.match(r"[\w.]+Error: ", line)]
        sys.exit("the harness failed: " + (raised or said)[-1])
    return [json.loads(line) for line in out.read_text().splitlines()]


def table(rows):
    print("scenario     controller   mean    max  gridlocks  forced  refused  fallback  late  seeds")
    key = lambda row: (row["scenario"], row["controller"].partition(":")[0].removeprefix("detectors/").lower())
    for scenario, controller in sorted(set(map(key, rows))):
        of = sorted((row for row in rows if key(row) == (scenario, controller)), key=lambda row: row["seed"])
        delays = [row["delay"] for row in of]
        # A seed that takes twice as long as the middle one, which two seeds do not have.
        locked = sum(delay > 2 * statistics.median(delays) for delay in delays) if len(delays) > 2 else "-"
        total = lambda name: sum(row[name] for row in of)
        print(
            f"{scenario:12s} {controller:10s} {statistics.mean(delays):6.2f} {max(delays):6.1f} {locked:>10} {total('forced'):7d} {total('refused'):8d}"
            f" {total('fallback_s'):9d} {total('late'):5d}  {' '.join(f'{delay:.1f}' for delay in delays)}"
        )


main()
