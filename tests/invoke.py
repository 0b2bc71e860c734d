"""Sends every sample event to the Lambda binaries and compares the answers with events/expected.

The functions run as `cargo lambda build` made them, behind the runtime API of `cargo lambda watch`, against tables, a stream,
a bucket and an event bus of ministack; tables have the keys and indexes of template.yaml. At the start,
events/intersection.json is configured. An expected answer lists the headers that matter; "*" stands for any value. Run it with `make invoke`.
"""

import base64
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time

import boto3
import yaml

ROOT = pathlib.Path(__file__).parent.parent
FUNCTIONS = ["sensor-ingestion", "operations-api", "signal-adjustment", "maintenance-prediction"]
# Sample readings are of one fixed day.
ANY_AGE_S = "400000000"


class Template(yaml.SafeLoader):
    """Reads a template; short forms such as !Ref become their argument."""


Template.add_multi_constructor("!", lambda loader, _, node: getattr(loader, f"construct_{node.id}")(node))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(port, process, log):
    for _ in range(150):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    sys.exit(f"nothing listens on port {port}; see {log}")


def make_resources(endpoint):
    """Tables as in template.yaml, a stream, a bucket and a bus; returns the functions' environment."""
    template = yaml.load((ROOT / "template.yaml").read_text(), Template)["Resources"]
    client = lambda service: boto3.client(service, endpoint_url=endpoint, region_name="us-east-1")
    tables = [name for name, resource in template.items() if resource["Type"] == "AWS::DynamoDB::Table"]
    for name in tables:
        properties = template[name]["Properties"]
        wanted = ["BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"]
        client("dynamodb").create_table(TableName=name, **{key: properties[key] for key in wanted if key in properties})
    client("kinesis").create_stream(StreamName="readings", ShardCount=1)
    client("s3").create_bucket(Bucket="quarantine")
    client("events").create_event_bus(Name="alerts")
    return client, {
        "STREAM_NAME": "readings", "QUARANTINE_BUCKET": "quarantine", "EVENT_BUS_NAME": "alerts",
        "READING_AGE_MAX_S": ANY_AGE_S, "READING_AHEAD_MAX_S": ANY_AGE_S, "AWS_ENDPOINT_URL": endpoint,
        **{f"{name.upper()}_TABLE": name for name in tables},
    }


def configuration_event():
    """The request that configures events/intersection.json, made from the sample request for another intersection."""
    event = json.loads((ROOT / "events/operations-api/put-intersection.json").read_text())
    body = (ROOT / "events/intersection.json").read_text()
    event["rawPath"] = f"/v1/intersections/{json.loads(body)['id']}"
    event["body"] = body
    event["headers"].pop("content-length")
    return event


def invoke(function, event_file, port):
    command = ["cargo", "lambda", "invoke", function, "-A", "127.0.0.1", "-P", str(port), "--data-file", str(event_file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if run.returncode:
        return {"failed": (run.stdout + run.stderr).strip()}
    answer = json.loads(run.stdout)
    if not isinstance(answer, dict) or "statusCode" not in answer:
        return answer
    body = base64.b64decode(answer["body"]) if answer["isBase64Encoded"] else answer["body"]
    return {"statusCode": answer["statusCode"], "headers": answer["headers"], "body": json.loads(body) if body else None}


def differences(expected, actual, path=""):
    if expected == "*" and actual is not None:
        return []
    if isinstance(expected, dict) and isinstance(actual, dict):
        keys = list(expected) + [key for key in actual if key not in expected]
        return [d for key in keys for d in differences(expected.get(key), actual.get(key), f"{path}/{key}")]
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        return [d for i, (e, a) in enumerate(zip(expected, actual)) for d in differences(e, a, f"{path}/{i}")]
    return [] if expected == actual else [f"{path}: expected {json.dumps(expected)}, got {json.dumps(actual)}"]


def check(name, expected, actual):
    if isinstance(actual, dict) and "headers" in actual:
        listed = expected.get("headers", {})
        actual["headers"] = {key: value for key, value in actual["headers"].items() if key in listed}
    wrong = differences(expected, actual)
    print(f"{'FAIL' if wrong else 'ok  '} {name}")
    for line in wrong:
        print(f"     {line}")
    return not wrong


def run(logs, processes):
    def start(command, name, **environment):
        log = open(logs / f"{name}.log", "w")
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env={**os.environ, **environment})
        processes.append(process)
        return process

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    ministack = start(
        [sys.executable, "-m", "ministack"], "ministack", BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port)
    )
    wait_for(port, ministack, logs / "ministack.log")
    client, environment = make_resources(endpoint)

    port = free_port()
    watch = start(["cargo", "lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", str(port)], "watch")
    wait_for(port, watch, logs / "watch.log")
    for function in FUNCTIONS:
        start(
            [ROOT / f"target/lambda/{function}/bootstrap"], function, **environment, AWS_LAMBDA_FUNCTION_NAME=function,
            AWS_LAMBDA_FUNCTION_VERSION="1", AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512", AWS_LAMBDA_LOG_LEVEL="DEBUG",
            AWS_LAMBDA_RUNTIME_API=f"http://127.0.0.1:{port}/.rt/{function}",
        )

    configuration = logs / "configuration.json"
    configuration.write_text(json.dumps(configuration_event()))
    status = invoke("operations-api", configuration, port).get("statusCode")
    good = [check("configuration of events/intersection.json", 201, status)]
    for function in FUNCTIONS:
        for event in sorted((ROOT / "events" / function).glob("*.json")):
            expected = json.loads((ROOT / "events/expected" / function / event.name).read_text())
            good.append(check(f"{function}/{event.name}", expected, invoke(function, event, port)))

    plan = invoke("operations-api", ROOT / "events/operations-api/plan-before-readings.json", port)
    newest = {"statusCode": plan.get("statusCode"), "as_of": (plan.get("body") or {}).get("as_of")}
    good.append(check("the plan rests on the newest readings", {"statusCode": 200, "as_of": "2026-11-22T08:00:10.000Z"}, newest))
    objects = client("s3").list_objects_v2(Bucket="quarantine").get("Contents", [])
    good.append(check("the poison records are in the quarantine", 2, len(objects)))
    shard = client("kinesis").get_shard_iterator(
        StreamName="readings", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    records = client("kinesis").get_records(ShardIterator=shard["ShardIterator"])["Records"]
    good.append(check("the readings are on the stream", 5, len(records)))
    print(f"{sum(good)} of {len(good)} as expected")
    return all(good)


def main():
    # Nothing here leaves the machine, and nothing of the caller's account gets in.
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION="us-east-1")
    for name in ["AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_CA_BUNDLE"]:
        os.environ.pop(name, None)
    # As `sam build` does it, so that neither builds again what the other has built.
    build = ["cargo", "lambda", "build", "--release", "--skip-target-check"]
    subprocess.run(build + [f"--bin={function}" for function in FUNCTIONS], cwd=ROOT, check=True)
    logs = pathlib.Path(tempfile.mkdtemp(prefix="greenwave-invoke-"))
    processes = []
    try:
        good = run(logs, processes)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(timeout=10)
    if not good:
        sys.exit(f"logs are in {logs}")


if __name__ == "__main__":
    main()
