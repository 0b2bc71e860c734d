"""Deploys template.yaml with the SAM CLI to an emulator and lives a stack's life: deployment, a day's work, accidents, an update,
deletion, another deployment.

Run it with `make e2e`. The functions are the binaries that `make deploy` builds; the emulator is tests/emulator.py, with IAM
enforced, and nothing but its endpoint and its credentials differs from a deployment to AWS. Requests go to the address that the
stack's output names: those of sensors signed by a user who may do nothing else, those of operators with a token of the stack's own
pool.
"""

import base64
import contextlib
import datetime
import hashlib
import http.client
import itertools
import json
import math
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.parse

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from processes import ROOT, free_port, offline_credentials, processes

REGION = "us-east-1"
STACK = "greenwave"
FUNCTIONS = ["SensorIngestion", "SignalAdjustment", "MaintenancePrediction", "OperationsApi"]
# What AWS does within five minutes, the emulator does within this time.
WAIT_MAX_S = 3
# A slow machine with other things to do: a limit, not a wait.
PATIENCE_S = 180
# `greenwave` with the AWS SDK, optimised.
BUILD_PATIENCE_S = 3600


class Failed(Exception):
    """Something is not as it should be."""


def check(condition, what):
    if not condition:
        raise Failed(what)


def until(what, probe, seconds=PATIENCE_S):
    """The first true answer of the probe."""
    deadline, answer = time.monotonic() + seconds, None
    while time.monotonic() < deadline:
        answer = probe()
        if answer:
            return answer
        time.sleep(0.3)
    raise Failed(f"{what}: not within {seconds} s; at last {answer!r}")


@contextlib.contextmanager
def phase(name, timings):
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    yield
    timings[name] = time.monotonic() - start
    print(f"{name}: {timings[name]:.1f} s", flush=True)


def say(line):
    print(f"  {line}", flush=True)


# --- The API as its callers see it -------------------------------------------------------------------------------------------


class Caller:
    """Somebody who calls the API: an IAM user that signs, the holder of a token, or nobody in particular."""

    def __init__(self, url, credentials=None, token=None):
        self.url, self.credentials, self.token = url, credentials, token

    def __call__(self, method, path, body=None, expect=200, headers=None):
        status, answer, _ = self.ask(method, path, body, headers)
        check(status == expect, f"{method} {path}: {status} instead of {expect}: {answer}")
        return answer

    def ask(self, method, path, body=None, headers=None):
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {**({"content-type": "application/json"} if data else {}), **(headers or {})}
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        request = AWSRequest(method, self.url + path, headers=headers, data=data or b"")
        if self.credentials:
            SigV4Auth(self.credentials, "execute-api", REGION).add_auth(request)
        return exchange(method, self.url + path, data, dict(request.headers))


def exchange(method, url, body, headers):
    """A request to a name that leads nowhere on this machine: the emulator tells its hosts apart by the header."""
    address = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", urllib.parse.urlsplit(os.environ["AWS_ENDPOINT_URL"]).port, timeout=60)
    try:
        connection.request(method, url.removeprefix(f"{address.scheme}://{address.netloc}"), body, {**headers, "host": address.netloc})
        answer = connection.getresponse()
        text = answer.read()
        with contextlib.suppress(ValueError):
            text = json.loads(text)
        return answer.status, text, answer.headers
    finally:
        connection.close()


def now():
    return datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)


def stamp(moment):
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


def step(intersection, at, vehicles):
    """One reading of each detector of an intersection."""
    detectors = [place["detector_id"] for place in intersection["lanes"] + intersection["exits"]]
    return [{
        "type": "detector", "intersection_id": intersection["id"], "detector_id": detector, "time": stamp(at), "period_s": 5,
        "volume": 1, "occupancy": 0.2, "vehicles": vehicles, "queue": vehicles / 2,
    } for detector in detectors]


def life(asset, end):
    """The readings of a turbofan at sea level from its first cycle to shortly before its last, a minute each.

    The values are made up after those of NASA's simulation (C-MAPSS): metric, value as new, at the end of a life, noise.
    """
    metrics = [
        ("s2", 642.2, 643.6, 0.3), ("s3", 1585.0, 1602.0, 4.0), ("s4", 1400.0, 1428.0, 4.0), ("s7", 554.3, 551.4, 0.4),
        ("s8", 2388.05, 2388.2, 0.03), ("s9", 9052.0, 9062.0, 6.0), ("s11", 47.3, 48.25, 0.08), ("s12", 522.0, 519.6, 0.3),
        ("s13", 2388.05, 2388.2, 0.03), ("s14", 8135.0, 8143.0, 5.0), ("s15", 8.41, 8.54, 0.015), ("s17", 391.5, 396.5, 0.6),
        ("s20", 38.98, 38.35, 0.08), ("s21", 23.38, 23.02, 0.05),
    ]
    cycles, noise = 150, random.Random(1)
    readings = []
    for cycle in range(1, cycles + 1):
        wear = math.expm1(3.5 * cycle / cycles) / math.expm1(3.5)
        values = {name: round(new + wear * (old - new) + noise.gauss(0, sigma), 4) for name, new, old, sigma in metrics}
        readings.append({
            "type": "telemetry", "asset_id": asset, "asset_kind": "turbofan", "cycle": cycle,
            "time": stamp(end - datetime.timedelta(minutes=cycles - cycle)),
            "metrics": {"op1": 0.0, "op2": 0.0, "op3": 100.0, **values},
        })
    return readings


# --- The stack ---------------------------------------------------------------------------------------------------------------


class Stack:
    """What was deployed, by the names of the template."""

    def __init__(self, aws, name=STACK):
        self.aws = aws
        described = aws("cloudformation").describe_stacks(StackName=name)["Stacks"][0]
        check(described["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE"), f"the stack is {described['StackStatus']}")
        self.outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
        resources = aws("cloudformation").describe_stack_resources(StackName=name)["StackResources"]
        self.names = {resource["LogicalResourceId"]: resource["PhysicalResourceId"] for resource in resources}
        self.url = self.outputs["ApiUrl"]

    def sensor(self, name, path):
        """An IAM user that may send readings to this path and do nothing else."""
        iam = self.aws("iam")
        iam.create_user(UserName=name)
        allowed = {
            "Effect": "Allow", "Action": "execute-api:Invoke",
            "Resource": f"arn:aws:execute-api:*:*:{self.names['Api']}/$default/POST{path}",
        }
        iam.put_user_policy(UserName=name, PolicyName="readings", PolicyDocument=policy(allowed))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return Caller(self.url, Credentials(key["AccessKeyId"], key["SecretAccessKey"]))

    def secret(self, client):
        """Of a client of the pool, by the name of its output."""
        where = {"UserPoolId": self.outputs["OperatorsPoolId"], "ClientId": self.outputs[client]}
        return self.aws("cognito-idp").describe_user_pool_client(**where)["UserPoolClient"]["ClientSecret"]

    def token(self, client, *scopes):
        """What the pool answers to a client that asks for these scopes, or for all it may have."""
        body = urllib.parse.urlencode({"grant_type": "client_credentials"} | ({"scope": " ".join(scopes)} if scopes else {}))
        basic = base64.b64encode(f"{self.outputs[client]}:{self.secret(client)}".encode()).decode()
        headers = {"content-type": "application/x-www-form-urlencoded", "authorization": f"Basic {basic}"}
        return exchange("POST", self.outputs["TokenUrl"], body, headers)[:2]

    def holder(self, client, *scopes):
        """Somebody with a token of the pool."""
        status, answer = self.token(client, *scopes)
        check(status == 200, f"no token: {status} {answer}")
        return Caller(self.url, token=answer["access_token"])

    def objects(self, prefix=""):
        """Keys and bodies in the quarantine."""
        s3, bucket = self.aws("s3"), self.names["Quarantine"]
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: s3.get_object(Bucket=bucket, Key=entry["Key"]) for entry in listed}

    def rows(self, table):
        pages = self.aws("dynamodb").get_paginator("scan").paginate(TableName=self.names[table])
        return [item for page in pages for item in page["Items"]]


def policy(statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def run(command, log, answers=""):
    """A command of the person who deploys, with the answers to what it asks; its output goes to a log."""
    with open(log, "a") as out:
        print(f"$ {' '.join(command)}", file=out, flush=True)
        result = subprocess.run(command, cwd=ROOT, stdout=out, stderr=out, input=answers, text=True)
    if result.returncode:
        tail = pathlib.Path(log).read_text().splitlines()[-30:]
        raise Failed("\n".join([f"{' '.join(command)} failed ({result.returncode}); see {log}", *tail]))


def journey(stack, aws, logs, timings):
    """From the first configuration to the accidents; returns what later phases go on with."""
    anybody = Caller(stack.url)
    with phase("who may call what", timings):
        sensors, device = stack.sensor("sensors", "/v1/readings"), stack.sensor("device-J1", "/v1/readings/J1")
        operators = stack.holder("OperatorsClientId")
        controllers = stack.holder("ControllersClientId")
        check(anybody("GET", "/v1/health")["status"] == "ok", "the API is not well")
        anybody("GET", "/openapi.json")
        anybody("GET", "/v1/nothing", expect=404)
        reading = {"readings": [{"type": "position", "asset_id": "truck-0", "time": "2020-01-01T00:00:00Z", "lat": 0.0, "lon": 0.0}]}
        anybody("POST", "/v1/readings", reading, expect=403)
        Caller(stack.url, Credentials(sensors.credentials.access_key, "not the secret"))("POST", "/v1/readings", reading, expect=403)
        operators("POST", "/v1/readings", reading, expect=403)
        for method, path in [("GET", "/v1/plans"), ("PUT", "/v1/intersections/J1"), ("GET", "/v1/alerts"), ("POST", "/v1/predictions")]:
            anybody(method, path, expect=401)
            sensors(method, path, expect=401)
        head, claims, _ = operators.token.split(".")
        Caller(stack.url, token=f"{head}.{claims}.{'A' * 342}")("GET", "/v1/plans", expect=401)
        for readers in [controllers, stack.holder("OperatorsClientId", "operations/read")]:
            readers("GET", "/v1/plans")
            readers("PUT", "/v1/intersections/J1", {}, expect=403)
        status, answer = stack.token("ControllersClientId", "operations/read", "operations/write")
        check(status == 400, f"controllers may write: {status} {answer}")

    with phase("a device speaks for its junction alone", timings):
        def seen(key):
            return {"readings": [{"type": "controller_event", "intersection_id": key, "time": stamp(now()), "code": 82, "parameter": 5}]}

        check(device("POST", "/v1/readings/J1", seen("J1"), expect=202)["accepted"] == 1, "it cannot speak for itself")
        device("POST", "/v1/readings/J2", seen("J2"), expect=403)
        device("POST", "/v1/readings", seen("J1"), expect=403)
        codes = [error["code"] for error in device("POST", "/v1/readings/J1", seen("J2"), expect=422)["errors"]]
        check(codes == ["foreign_key"], f"refused with {codes}")

    with phase("the commands of the README", timings):
        plans = json.loads(follow_readme(logs, "$TokenUrl"))
        check(plans == {"items": [], "next_cursor": None}, f"the last one printed {plans}")

    with phase("readings to plan", timings):
        junction = json.loads((ROOT / "events/intersection.json").read_text())
        operators("PUT", "/v1/intersections/J1", junction, expect=201, headers={"if-none-match": "*"})
        operators("PUT", "/v1/intersections/J1", junction, expect=412, headers={"if-none-match": "*"})
        begin = now()
        for n in range(3):
            at = begin + datetime.timedelta(seconds=5 * (n - 2))
            readings = {"readings": step(junction, at, vehicles=4.0 + n)}
            answer = sensors("POST", "/v1/readings", readings, expect=202, headers={"x-request-id": f"e2e-step-{n}"})
            check(answer["accepted"] == 12, f"accepted {answer}")
        plan = until("a plan of the newest readings", lambda: plan_as_of(operators, stamp(begin)))
        say(f"plan of {plan['as_of']}: {plan['reason']['text']}")
        decisions = operators("GET", "/v1/intersections/J1/decisions")["items"]
        check(decisions and decisions[0]["reason"], f"no decision: {decisions}")
        listed = operators("GET", "/v1/plans?prefix=J")["items"]
        check([entry["intersection_id"] for entry in listed] == ["J1"], f"listed {listed}")

    with phase("a machine's life", timings):
        inbox = listen(stack, aws)
        operators("PUT", "/v1/assets/turbine-1", {"id": "turbine-1", "kind": "turbofan", "name": "Turbine 1"}, expect=201)
        sensors("POST", "/v1/readings", {"readings": life("turbine-1", begin)}, expect=202)
        alerts = until("an alert about the machine", lambda: operators("GET", "/v1/alerts?status=open")["items"])
        check([alert["asset_id"] for alert in alerts] == ["turbine-1"], f"alerts {alerts}")
        alert = alerts[0]
        say(f"alert: {alert['text']}")
        health = operators("GET", "/v1/assets/turbine-1/health")
        check(health["state"] == "alarm" and health["remaining_useful_life"]["p50"] < 30, f"health {health}")
        shown = operators("POST", f"/v1/alerts/{alert['id']}/acknowledgement", {"by": "Ada", "note": "Crew is on its way."})
        check(shown["status"] == "acknowledged", f"acknowledged {shown}")
        check(not operators("GET", "/v1/alerts?status=open")["items"], "an alert is still open")
        told = {}
        until("events of the alert on the bus", lambda: heard(inbox, aws, told) >= 2)
        say(f"told: {', '.join(told.values())}")
        check(sorted(told.values()) == ["greenwave.alert.acknowledged", "greenwave.alert.raised"], f"told {told}")

    with phase("a burst over a shard's limit", timings):
        burst(stack, aws, sensors, begin, logs / "emulator.log")

    with phase("a poison record", timings):
        where = aws("kinesis").put_record(StreamName=stack.outputs["StreamName"], PartitionKey="J1", Data=b"\xffnot a record")
        for function in ["signal-adjustment", "maintenance-prediction"]:
            kept = until(f"the record in the quarantine of {function}", lambda: stack.objects(f"{function}/"))
            (key, kept), = kept.items()
            check(where["SequenceNumber"] in key and kept["Body"].read() == b"\xffnot a record", f"kept as {key}")
            say(f"{key}: {kept['Metadata']['reason']}")

    with phase("a batch that fails for good", timings):
        # Somebody takes a permission away, and gives it back.
        iam, role = aws("iam"), stack.names["SignalAdjustmentRole"]
        denied = {"Effect": "Deny", "Action": "dynamodb:PutItem", "Resource": "*"}
        iam.put_role_policy(RoleName=role, PolicyName="accident", PolicyDocument=policy(denied))
        lost = now()
        sensors("POST", "/v1/readings", {"readings": step(junction, lost, vehicles=9.0)}, expect=202)
        batch = until("the batch at the on-failure destination", lambda: given_up(stack))
        # A minute is over before five retries are where the machine is slow.
        reasons = ["RetryAttemptsExhausted", "RecordAgeExceeded"]
        check(batch["requestContext"]["condition"] in reasons, f"given up because of {batch['requestContext']}")
        check(batch["KinesisBatchInfo"]["batchSize"] == 1, f"given up with others: {batch['KinesisBatchInfo']}")
        record = json.loads(base64.b64decode(json.loads(batch["payload"])["Records"][0]["kinesis"]["data"]))
        check(record["key"] == "J1" and len(record["readings"]) == 12, f"the record is {record}")
        say(f"given up after {batch['requestContext']['approximateInvokeCount']} calls")
        iam.delete_role_policy(RoleName=role, PolicyName="accident")
        at = now()
        sensors("POST", "/v1/readings", {"readings": step(junction, at, vehicles=3.0)}, expect=202)
        until("a plan after the accident", lambda: plan_as_of(operators, stamp(at)))

    with phase("the commands of the README about the quarantine", timings):
        kept = stack.objects()
        said = follow_readme(logs, "$TokenUrl", "greenwave quarantine")
        check(f"{len(kept)} entries: 2 poison, {len(kept) - 2} failed batch" in said, f"listed: {said}")
        check("Nothing was done" in said and stack.objects().keys() == kept.keys(), f"a replay without --yes: {said}")
        say(said.strip().splitlines()[-1])

    with phase("a sweep on schedule", timings):
        # Nothing was ever heard of it; the sweep expects its detectors from now on.
        operators("PUT", "/v1/intersections/J2", {**junction, "id": "J2"}, expect=201, headers={"if-none-match": "*"})
        until("the sweep that finds J2", lambda: any(row["id"]["S"] == "J2" for row in stack.rows("Conditions")))

    with phase("logs", timings):
        secrets = [stack.secret("OperatorsClientId"), operators.token, sensors.credentials.secret_key, device.credentials.secret_key]
        read_logs(stack, aws, secrets)
    return junction, sensors, operators


def follow_readme(logs, *words):
    """Runs the blocks of README.md that have these words, one after the other as they stand there; returns what they printed.

    But for the addresses: here they lead to the emulator, without TLS. And what is installed is gone with the logs, and not optimised:
    that would take longer than everything else.
    """
    blocks = re.findall(r"```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    chosen = [[block for block in blocks if word in block] for word in words]
    check(all(len(found) == 1 for found in chosen), f"blocks of the README with {words}: {chosen}")
    programs = logs / "bin"
    programs.mkdir(exist_ok=True)
    curl = programs / "curl"
    address = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    curl.write_text(f'#!/bin/bash\nexec {shutil.which("curl")} --connect-to ::{address} "${{@/#https:/http:}}"\n')
    curl.chmod(0o755)
    cargo = programs / "cargo"
    cargo.write_text(f'#!/bin/bash\n[ "$1" = install ] && set -- "$@" --debug\nexec {shutil.which("cargo")} "$@"\n')
    cargo.chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "CARGO_INSTALL_ROOT": str(logs)}
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "".join(block for block, in chosen)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=BUILD_PATIENCE_S,
    )
    check(result.returncode == 0, f"the commands of the README: {result.stderr}")
    return result.stdout


def plan_as_of(caller, newest):
    status, plan, _ = caller.ask("GET", "/v1/intersections/J1/plan")
    return plan if status == 200 and plan["as_of"] >= newest else None


def listen(stack, aws):
    """A queue behind a rule on the bus of alerts, as somebody may add one."""
    sqs, bus = aws("sqs"), stack.outputs["AlertBusName"]
    inbox = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=inbox, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    allowed = {"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": arn}
    sqs.set_queue_attributes(QueueUrl=inbox, Attributes={"Policy": policy(allowed)})
    aws("events").put_rule(Name="inbox", EventBusName=bus, EventPattern=json.dumps({"detail-type": [{"prefix": "greenwave."}]}))
    aws("events").put_targets(Rule="inbox", EventBusName=bus, Targets=[{"Id": "inbox", "Arn": arn}])
    return inbox


def heard(inbox, aws, events):
    """Takes what is in the queue to the types of events by their id; returns how many there are."""
    for message in aws("sqs").receive_message(QueueUrl=inbox, MaxNumberOfMessages=10).get("Messages", []):
        event = json.loads(message["Body"])
        events[event["detail"]["id"]] = event["detail-type"]
        aws("sqs").delete_message(QueueUrl=inbox, ReceiptHandle=message["ReceiptHandle"])
    return len(events)


def burst(stack, aws, sensors, at, emulator_log):
    """More records than a shard takes in a second: all are accepted, and each lies on the stream once."""
    kinesis, name = aws("kinesis"), stack.outputs["StreamName"]
    shards = kinesis.list_shards(StreamName=name)["Shards"]
    end = int(shards[0]["HashKeyRange"]["EndingHashKey"])
    trucks = (f"truck-{n}" for n in itertools.count())
    keys = list(itertools.islice((key for key in trucks if int(hashlib.md5(key.encode()).hexdigest(), 16) <= end), 2000))
    readings = [{"type": "position", "asset_id": key, "time": stamp(at), "lat": 50.94, "lon": 6.96} for key in keys]
    answers, threads = [], []
    for start in range(0, len(readings), 500):
        part = {"readings": readings[start:start + 500]}
        threads.append(threading.Thread(target=lambda part=part: answers.append(sensors.ask("POST", "/v1/readings", part)[:2])))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check([status for status, _ in answers] == [202] * len(threads), f"answers {answers}")
    found, where = [], {"StreamName": name, "ShardId": shards[0]["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
    iterator = kinesis.get_shard_iterator(**where)["ShardIterator"]
    while iterator:
        page = kinesis.get_records(ShardIterator=iterator, Limit=10000)
        found += [record["PartitionKey"] for record in page["Records"] if record["PartitionKey"].startswith("truck-")]
        iterator = page["NextShardIterator"] if page["Records"] else None
    check(sorted(found) == sorted(keys), f"{len(found)} records of {len(keys)} on the stream")
    refused = [int(n) for n in re.findall(r"(\d+) of \d+ records refused", emulator_log.read_text())]
    say(f"{len(keys)} records in one shard; {sum(refused)} refusals in {len(refused)} calls, all sent again")


def given_up(stack):
    """The invocation record of a batch that was given up."""
    for key, kept in stack.objects("aws/lambda/").items():
        say(key)
        return json.loads(kept["Body"].read())
    return None


def update(stack, aws, log, junction, sensors, operators):
    """Another retention, and a web page that may call: data stays, and the API answers all the time."""
    page = {"origin": "https://city.example", "access-control-request-method": "GET"}
    anybody, over, answers = Caller(stack.url), threading.Event(), []

    def ask():
        while not over.is_set():
            try:
                answers.append(operators.ask("GET", "/v1/intersections/J1")[0])
            except OSError as error:
                answers.append(repr(error))
            over.wait(0.05)

    allowed = anybody.ask("OPTIONS", "/v1/plans", headers=page)[2]["access-control-allow-origin"]
    check(allowed is None, f"{allowed} may call before anybody said so")
    asking = threading.Thread(target=ask)
    asking.start()
    try:
        run(["make", "deploy", f"PARAMETERS=DecisionsRetentionDays=31 CorsOrigin={page['origin']}"], log)
    finally:
        over.set()
        asking.join()
    check(set(answers) == {200}, f"answers during the update: {set(answers)}")
    updated = Stack(aws)
    check(updated.names == stack.names, "the update replaced a resource")
    variables = aws("lambda").get_function_configuration(FunctionName=stack.names["SignalAdjustment"])["Environment"]["Variables"]
    check(variables["DECISIONS_RETENTION_DAYS"] == "31", f"the function has {variables}")
    status, _, headers = anybody.ask("OPTIONS", "/v1/plans", headers=page)
    check((status, headers["access-control-allow-origin"]) == (204, page["origin"]), f"preflight: {status} {headers}")
    at = now()
    sensors("POST", "/v1/readings", {"readings": step(junction, at, vehicles=6.0)}, expect=202)
    until("a plan after the update", lambda: plan_as_of(operators, stamp(at)))
    say(f"{len(answers)} requests during the update, all answered 200")


def other_architecture(stack, aws, log):
    """Somebody chose arm64 the last time: who deploys without a word about it deploys what is built."""
    run(["sam", "deploy", "--config-env", "dev", "--parameter-overrides", "Architecture=arm64", "LogRetentionDays=14"], log)
    check(architectures(stack, aws) == {"arm64"}, "the architecture cannot be chosen")
    run(["make", "deploy"], log)
    check(architectures(stack, aws) == {"x86_64"}, "x86_64 was built, and something else deployed")
    group, = aws("logs").describe_log_groups(logGroupNamePrefix=stack.names["ApiLog"])["logGroups"]
    check(group["retentionInDays"] == 14, f"another parameter did not keep its value: {group}")


def architectures(stack, aws):
    configurations = [aws("lambda").get_function_configuration(FunctionName=stack.names[function]) for function in FUNCTIONS]
    return {architecture for configuration in configurations for architecture in configuration["Architectures"]}


def delete(stack, aws, log):
    """What cannot be made anew stays, all else goes."""
    # AWS keeps a bus that has rules.
    aws("events").remove_targets(Rule="inbox", EventBusName=stack.outputs["AlertBusName"], Ids=["inbox"])
    aws("events").delete_rule(Name="inbox", EventBusName=stack.outputs["AlertBusName"])
    run(["make", "delete"], log, answers="y\n" * 3)
    tables = aws("dynamodb").list_tables()["TableNames"]
    kept = ["Intersections", "Decisions", "Assets", "Conditions", "Alerts", "Acknowledgements"]
    check([table for table in kept if stack.names[table] not in tables] == [], f"left are {tables}")
    check(stack.names["Junctions"] not in tables, "the plans are still there")
    for table in kept:
        check(stack.rows(table), f"{table} is empty")
    check(stack.objects(), "the quarantine is empty")
    check(aws("kinesis").list_streams()["StreamNames"] == [], "the stream is still there")
    check(aws("lambda").list_functions()["Functions"] == [], "a function is still there")
    Caller(stack.url)("GET", "/v1/health", expect=404)
    say(f"retained: {', '.join(kept)}, Quarantine")


def again(before, aws, log):
    """The same name may be deployed again beside what the first one left."""
    run(["make", "deploy"], log)
    stack = Stack(aws)
    check(Caller(stack.url)("GET", "/v1/health")["status"] == "ok", "the API is not well")
    check(stack.names["Intersections"] != before.names["Intersections"], "a table was taken over")
    run(["make", "delete"], log, answers="y\n" * 3)


def beside(first, aws, log):
    """The other environment is a stack of its own, and asks before it changes something."""
    run(["sam", "deploy", "--config-env", "prod", "--parameter-overrides", "Architecture=x86_64"], log, answers="n\n")
    prod = "greenwave-prod"
    status = {entry["StackName"]: entry["StackStatus"] for entry in aws("cloudformation").list_stacks()["StackSummaries"]}
    check(status.get(prod) in (None, "REVIEW_IN_PROGRESS"), f"deployed without a yes: {status}")
    run(["make", "deploy", "ENV=prod"], log, answers="y\n")
    second = Stack(aws, prod)
    shared = {name: second.names[name] for name in first.names if second.names.get(name) == first.names[name]}
    # Names within the API and the pool of each.
    check(set(shared.values()) <= {"$default", "operations"}, f"they share {shared}")
    check(Caller(second.url)("GET", "/v1/health")["status"] == "ok", "the API of prod is not well")
    run(["make", "delete", "ENV=prod"], log, answers="y\n" * 3)
    check(Caller(first.url)("GET", "/v1/health")["status"] == "ok", "the API of dev is gone as well")


def logs_of(aws):
    """The messages of each log group."""
    client = aws("logs")
    groups = [group["logGroupName"] for group in client.describe_log_groups()["logGroups"]]
    pages = client.get_paginator("filter_log_events")
    return {group: [event["message"] for page in pages.paginate(logGroupName=group) for event in page["events"]] for group in groups}


def read_logs(stack, aws, secrets):
    """Requests can be followed, metrics are there, secrets are not."""
    logs = logs_of(aws)
    lines = [line for messages in logs.values() for line in messages]
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    plans = [entry["fields"].get("request_id") for entry in entries if entry.get("fields", {}).get("message") == "the plan changed"]
    check(any((request or "").startswith("e2e-step-") for request in plans), f"plans of the requests {plans}")
    emitted = [entry for entry in entries if "_aws" in entry]
    metrics = {metric["Name"] for entry in emitted for metric in entry["_aws"]["CloudWatchMetrics"][0]["Metrics"]}
    wanted = {"readings_accepted", "decisions_made", "alerts_raised", "records_quarantined"}
    check(wanted <= metrics, f"no metric {wanted - metrics} among {metrics}")
    started = {entry["FunctionName"] for entry in emitted if "cold_starts" in entry}
    missing = [function for function in FUNCTIONS if stack.names[function] not in started]
    check(not missing, f"no cold start of {missing}")
    for secret in secrets:
        check(not any(secret in line for line in lines), "a secret is in the logs")
    say(f"{len(lines)} lines; metrics: {', '.join(sorted(metrics))}")


def keep_logs(aws, directory):
    """The functions' logs, beside those of the processes."""
    for group, messages in logs_of(aws).items():
        (directory / f"{group.strip('/').replace('/', '-')}.log").write_text("".join(f"{message.rstrip()}\n" for message in messages))


def main():
    offline_credentials()
    timings = {}
    with processes("e2e") as started:
        log = started.logs / "sam.log"
        port = free_port()
        endpoint = f"http://127.0.0.1:{port}"
        started.start(
            "emulator", [sys.executable, "tests/emulator.py"], port, AUTH="true", BIND_HOST="127.0.0.1", GATEWAY_PORT=str(port),
            AWS_ENDPOINT_URL=endpoint, GREENWAVE_E2E_WAIT_MAX_S=str(WAIT_MAX_S),
        )
        os.environ["AWS_ENDPOINT_URL"] = endpoint
        clients = {}

        def aws(service):
            return clients.setdefault(service, boto3.client(service))

        try:
            with phase("sam validate --lint", timings):
                run(["sam", "validate", "--lint"], log)
            with phase("make deploy", timings):
                run(["make", "deploy"], log)
            stack = Stack(aws)
            going_on = journey(stack, aws, started.logs, timings)
            with phase("another architecture and back", timings):
                other_architecture(stack, aws, log)
            with phase("stack update", timings):
                update(stack, aws, log, *going_on)
            with phase("prod beside it", timings):
                beside(stack, aws, log)
            with phase("stack deletion", timings):
                delete(stack, aws, log)
            with phase("deployment after deletion", timings):
                again(stack, aws, log)
        except Failed as failure:
            sys.exit(f"FAILED: {failure}")
        finally:
            with contextlib.suppress(Exception):
                keep_logs(aws, started.logs)
        stand_ins = re.findall("stand-in:.*", (started.logs / "emulator.log").read_text())
        for line in dict.fromkeys(stand_ins):
            say(line)
        print(f"all as expected, {sum(timings.values()):.0f} s")


if __name__ == "__main__":
    main()
