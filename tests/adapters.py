"""Holds the adapters for AWS against the contract of the ports (tests/tests/ports.rs), over ministack.

Each behaviour gets tables with the keys and indexes of template.yaml, a stream and a bucket of its own, named after it. Run it
with `make adapters`.
"""

import os
import subprocess
import sys

from invoke import make_tables, ministack
from processes import ROOT, offline_credentials, processes

TESTS = ["cargo", "test", "--workspace", "--features", "greenwave/aws,tests/aws", "--test", "ports", "--", "--ignored", "aws::"]


def main():
    offline_credentials()
    listed = subprocess.run([*TESTS, "--list"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    behaviours = [line.removeprefix("aws::").removesuffix(": test") for line in listed.splitlines() if line.startswith("aws::")]
    with processes("adapters") as started:
        endpoint, client = ministack(started)
        for behaviour in behaviours:
            make_tables(client("dynamodb"), f"{behaviour}.")
            client("kinesis").create_stream(StreamName=behaviour, ShardCount=2)
            client("s3").create_bucket(Bucket=behaviour.replace("_", "-"))
        if subprocess.run(TESTS, cwd=ROOT, env={**os.environ, "AWS_ENDPOINT_URL": endpoint}).returncode:
            sys.exit("FAILED")


if __name__ == "__main__":
    main()
