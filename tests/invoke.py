"""Sends every sample event to the Lambda binaries and compares the answers with events/expected.

The functions run as `cargo lambda build` made them, behind the runtime API of `cargo lambda watch`, against tables, a stream,
a bucket and an event bus of ministack; tables have the keys and indexes of template.yaml. At the start,
events/intersection.json is configured. An expected answer lists the headers that matter; "*" stands for any value. Run it with `make invoke`.
"""

import base64
import json
import subprocess
import sys

import boto3
import yaml
from processes import FUNCTIONS, ROOT, free_port, offline_credentials, processes

# Sample readings are of one fixed day.
ANY_AGE_S = "400000000"


class Template(yaml.SafeLoader):
    """Reads a template; short forms such as !Ref become their argument."""


Template.add_multi_constructor("!", lambda loader, _, node: getattr(loader, f"construct_{node.id}")(node))


def ministack(started):
    """Starts the emulator; returns its endpoint and a maker of clients."""
    port = free_port()
    started.start("ministack", [sys.executable, "-m", "ministack"], port, BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port), IOT_MTLS_ENABLED="0")
    endpoint = f"http://127.0.0.1:{port}"
    return endpoint, lambda service: boto3.client(service, endpoint_url=endpoint)


def make_tables(dynamodb, prefix=""):
    """Tables with the keys and indexes of template.yaml; returns their names there."""
    template = yaml.load((ROOT / "template.yaml").read_text(), Template)["Resources"]
    tables = {name: resource["Properties"] for name, resource in template.items() if resource["Type"] == "AWS::DynamoDB::Table"}
    for name, properties in tables.items():
        wanted = ["BillingMode", "AttributeDefinitions", "KeySchema", "GlobalSecondaryIndexes"]
        dynamodb.create_table(TableName=prefix + name, **{key: properties[key] for key in wanted if key in properties})
    return list(tables)


def make_resources(client, endpoint):
    """Tables as in template.yaml, a stream, a bucket and a bus; returns the functions' environment."""
    tables = make_tables(client("dynamodb"))
    client("kinesis").create_stream(StreamName="readings", ShardCount=1)
    client("s3").create_bucket(Bucket="quarantine")
    client("events").create_event_bus(Name="alerts")
    return {
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


def run(started):
    endpoint, client = ministack(started)
    environment = make_resources(client, endpoint)

    port = free_port()
    started.start("watch", ["cargo", "lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", str(port)], port)
    for function in FUNCTIONS:
        started.start(
            function, [ROOT / f"target/lambda/{function}/bootstrap"], **environment, AWS_LAMBDA_FUNCTION_NAME=function,
            AWS_LAMBDA_FUNCTION_VERSION="1", AWS_LAMBDA_FUNCTION_MEMORY_SIZE="512", AWS_LAMBDA_LOG_LEVEL="DEBUG",
            AWS_LAMBDA_RUNTIME_API=f"http://127.0.0.1:{port}/.rt/{function}",
        )

    configuration = started.logs / "configuration.json"
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
    good.append(check("the poison records are in the quarantine", 3, len(objects)))
    shard = client("kinesis").get_shard_iterator(
        StreamName="readings", ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON"
    )
    records = client("kinesis").get_records(ShardIterator=shard["ShardIterator"])["Records"]
    good.append(check("the readings are on the stream", 7, len(records)))
    print(f"{sum(good)} of {len(good)} as expected")
    return all(good)


def main():
    offline_credentials()
    # As `sam build` does it, so that neither builds again what the other has built.
    build = ["cargo", "lambda", "build", "--release", "--skip-target-check"]
    subprocess.run(build + [f"--bin={function}" for function in FUNCTIONS], cwd=ROOT, check=True)
    with processes("invoke") as started:
        if not run(started):
            sys.exit("FAILED")


if __name__ == "__main__":
    main()
