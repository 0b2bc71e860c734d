"""The emulator that tests/e2e.py deploys to: ministack, and what it lacks to behave as AWS does where Greenwave relies on it.

Each gap, and the AWS behaviour that takes its place here:

- API Gateway ignores the `Body` of an HTTP API. Imported here: routes, Lambda integrations, JWT and IAM authorization of each
  route, CORS. A new body replaces the old one at once, as `$default` with automatic deployment does.
- A route with IAM authorization takes whatever is no signature for the account's own. Here it is refused.
- The Kinesis event source mapping hands a batch on until it succeeds and knows no other setting. The poller here honours batch
  size, batching window, parallelization factor (a key stays in its lane), `ReportBatchItemFailures`, bisecting, retries, record
  age, and the on-failure destination (SQS or S3). It reads the stream and writes to the destination with the permissions of the
  function's role, as AWS does.
- Shards take any load. Here one takes 1 MiB and 1000 records a second, as on AWS; the rest is refused record by record.
- It is reached over plain HTTP, which the bucket's policy refuses (`aws:SecureTransport`). Here IAM takes each request for one over
  TLS, as all are on AWS.
- The names that CloudFormation makes repeat, so that a second stack takes over what the first one left. Here they are new.
- A template with a resource type that is not known, or an alarm of metric math, is refused. Here such a resource is recorded and
  does nothing; a line with "stand-in:" names it.

`GREENWAVE_E2E_WAIT_MAX_S` caps batching windows and the periods of `rate()` schedules, so that a test sees what AWS does after
minutes; without it the template's own hold.

What stays unlike AWS: splitting a shard loses its records; the API has no throttling and no payload limit; Lambda permissions
(who may call a function) are not enforced; nothing is encrypted; a consumer with enhanced fan-out is not served.
"""

import base64
import datetime
import functools
import hashlib
import json
import logging
import os
import re
import threading
import time
import uuid

# Of the emulator: a broker that nothing here talks to, on a port of its own.
os.environ["IOT_MTLS_ENABLED"] = "0"

import boto3
import botocore.config
import botocore.exceptions
from ministack import app
from ministack.core import iam_evaluator
from ministack.core.lambda_runtime import execution_credentials
from ministack.services import apigateway, eventbridge, kinesis, lambda_svc
from ministack.services.cloudformation import provisioners, stacks

log = logging.getLogger("greenwave.emulator")
WAIT_MAX_S = float(os.environ.get("GREENWAVE_E2E_WAIT_MAX_S", "inf"))
ENDPOINT = f"http://127.0.0.1:{os.environ.get('GATEWAY_PORT', '4566')}"


# --- API Gateway: the body of an HTTP API ------------------------------------------------------------------------------------


def authorization(api_id, operation, schemes, authorizers):
    """The properties of a route that say who may call it; makes the authorizer that it names."""
    for requirement in operation.get("security") or []:
        for name, scopes in requirement.items():
            scheme = schemes[name]
            if scheme.get("x-amazon-apigateway-authtype") == "awsSigv4":
                return {"AuthorizationType": "AWS_IAM"}
            wanted = scheme["x-amazon-apigateway-authorizer"]
            if wanted["type"] != "jwt":
                raise ValueError(f"the import knows no authorizer of type {wanted['type']}")
            jwt = wanted["jwtConfiguration"]
            # The identifier is made from the name, so that a new body finds the authorizer of the old one.
            identifier = hashlib.sha256(f"{api_id} {name}".encode()).hexdigest()[:8]
            authorizers[identifier] = {
                "authorizerId": identifier, "authorizerType": "JWT", "name": name,
                "identitySource": [wanted["identitySource"]],
                "jwtConfiguration": {"issuer": jwt["issuer"], "audience": jwt["audience"]},
            }
            return {"AuthorizationType": "JWT", "AuthorizerId": identifier, "AuthorizationScopes": scopes}
    return {}


def import_body(api_id, body):
    schemes = body.get("components", {}).get("securitySchemes", {})
    routes, integrations, authorizers = {}, {}, {}
    for path, operations in body.get("paths", {}).items():
        for method, operation in operations.items():
            target = operation.get("x-amazon-apigateway-integration")
            if target is None:
                raise ValueError(f"{method.upper()} {path} leads nowhere")
            identifier = f"{len(routes):08x}"
            integrations[identifier] = {"integrationId": identifier, **provisioners._apigw_v2_integration_props({
                "IntegrationType": target["type"].upper(), "IntegrationUri": target["uri"],
                "PayloadFormatVersion": target.get("payloadFormatVersion", "1.0"),
            })}
            key = "$default" if path == "/$default" else f"{method.upper()} {path}"
            routes[identifier] = {"routeId": identifier, **provisioners._apigw_v2_route_props({
                "RouteKey": key.replace("X-AMAZON-APIGATEWAY-ANY-METHOD", "ANY"), "Target": f"integrations/{identifier}",
                **authorization(api_id, operation, schemes, authorizers),
            })}
    apigateway._integrations[api_id] = integrations
    apigateway._authorizers[api_id] = authorizers
    apigateway._routes[api_id] = routes
    cors = body.get("x-amazon-apigateway-cors")
    if cors:
        apigateway._apis[api_id]["corsConfiguration"] = cors
    else:
        apigateway._apis[api_id].pop("corsConfiguration", None)


def import_bodies():
    handlers = provisioners._RESOURCE_HANDLERS["AWS::ApiGatewayV2::Api"]
    create, update = handlers["create"], handlers["update"]

    def named(properties):
        title = (properties.get("Body") or {}).get("info", {}).get("title")
        return {**properties, "Name": title} if title else properties

    def create_with_body(logical_id, properties, stack):
        api_id, attributes = create(logical_id, named(properties), stack)
        import_body(api_id, properties.get("Body") or {})
        return api_id, attributes

    def update_with_body(api_id, old, new, *rest, **named_rest):
        api_id, attributes = update(api_id, named(old), named(new), *rest, **named_rest)
        import_body(api_id, new.get("Body") or {})
        return api_id, attributes

    handlers.update(create=create_with_body, update=update_with_body)


def refuse_unsigned():
    enforce = app._enforce_execute_api

    def signed_or_refused(api_id, stage, method, path, headers, *rest, **named_rest):
        wanted = app._execute_api_authorization_type(api_id, stage, method, path)
        if wanted == "AWS_IAM" and not headers.get("authorization", "").startswith("AWS4-HMAC-SHA256 "):
            return 403, {"Content-Type": "application/json"}, b'{"message":"Forbidden"}'
        return enforce(api_id, stage, method, path, headers, *rest, **named_rest)

    app._enforce_execute_api = signed_or_refused


# --- Lambda: the event source mapping of a stream ----------------------------------------------------------------------------


@functools.lru_cache
def client(service, access_key=None, secret_key=None, token=None):
    return boto3.client(
        service, endpoint_url=ENDPOINT, region_name="us-east-1", aws_access_key_id=access_key or "test",
        aws_secret_access_key=secret_key or "test", aws_session_token=token,
        config=botocore.config.Config(retries={"max_attempts": 0}, read_timeout=900, max_pool_connections=50),
    )


def iso(moment):
    return moment.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


class Mapping:
    """One event source mapping: a thread that reads for each shard, and one for each of its lanes."""

    def __init__(self, mapping):
        self.mapping = mapping
        self.gone = threading.Event()
        self.readers = set()

    def setting(self, name, default):
        value = self.mapping.get(name)
        return default if value is None else type(default)(value)

    def function(self):
        record, _ = lambda_svc._get_func_record_for_qualifier(self.mapping["FunctionName"], self.mapping.get("Qualifier"))
        return record["config"] if record else None

    def as_role(self, service):
        """A client with the permissions of the function, which the poller of AWS uses as well."""
        given = execution_credentials(self.function())
        return client(service, given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], given["AWS_SESSION_TOKEN"])

    def says(self, result):
        self.mapping["LastProcessingResult"] = result

    def start(self, name, run, *args):
        def guarded():
            while not self.gone.is_set():
                try:
                    return run(*args)
                except Exception as error:  # noqa: BLE001 - a poller outlives whatever it meets
                    if not self.gone.is_set():
                        self.says(f"PROBLEM: {error}")
                        log.warning("%s of %s: %s", name, self.mapping["FunctionName"], error)
                    self.gone.wait(1)

        threading.Thread(target=guarded, name=name, daemon=True).start()

    def run(self):
        while not self.gone.is_set():
            stream = self.mapping["EventSourceArn"]
            for shard in self.as_role("kinesis").list_shards(StreamARN=stream)["Shards"]:
                shard_id = shard["ShardId"]
                if shard_id not in self.readers:
                    self.readers.add(shard_id)
                    lanes = [Lane(self, shard_id) for _ in range(self.setting("ParallelizationFactor", 1))]
                    self.start(f"reader of {shard_id}", self.read, shard_id, lanes, [])
                    for lane in lanes:
                        self.start(f"lane of {shard_id}", lane.run)
            self.gone.wait(5)

    def read(self, shard_id, lanes, last):
        """Spreads the records of a shard over its lanes; `last` outlives a failure and holds the newest sequence number."""
        stream = self.as_role("kinesis")
        where = {"StreamARN": self.mapping["EventSourceArn"], "ShardId": shard_id}
        if last:
            where |= {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": last[0]}
        else:
            where |= {"ShardIteratorType": self.setting("StartingPosition", "LATEST")}
        iterator = stream.get_shard_iterator(**where)["ShardIterator"]
        while iterator and not self.gone.is_set():
            answer = stream.get_records(StreamARN=self.mapping["EventSourceArn"], ShardIterator=iterator, Limit=10000)
            for record in answer["Records"]:
                key = hashlib.md5(record["PartitionKey"].encode()).digest()
                lanes[key[-1] % len(lanes)].push(record)
                last[:] = [record["SequenceNumber"]]
            iterator = answer.get("NextShardIterator")
            # AWS polls a shard once a second.
            self.gone.wait(1)


class Lane:
    """What one lane of a shard holds: batches go out one at a time, in order."""

    def __init__(self, mapping, shard_id):
        self.mapping, self.shard_id = mapping, shard_id
        self.queue, self.changed = [], threading.Condition()

    def push(self, record):
        with self.changed:
            self.queue.append((time.monotonic(), record))
            self.changed.notify()

    def run(self):
        while not self.mapping.gone.is_set():
            batch = self.next_batch()
            if batch:
                self.settle(batch)

    def next_batch(self):
        """Records for one call, once there are enough or the first has waited for the window; none now and then."""
        size = self.mapping.setting("BatchSize", 100)
        window = min(self.mapping.setting("MaximumBatchingWindowInSeconds", 0.0), WAIT_MAX_S)
        with self.changed:
            since = self.queue[0][0] if self.queue else None
            closes_in = 1.0 if since is None else since + window - time.monotonic()
            if len(self.queue) < size and closes_in > 0 or not self.mapping.mapping.get("Enabled", True):
                self.changed.wait(min(max(closes_in, 0.1), 1.0))
                return []
            taken, bytes_left = 0, 6 * 1024 * 1024
            for _, record in self.queue[:size]:
                bytes_left -= len(record["Data"]) * 4 // 3 + len(record["PartitionKey"]) + 480
                if bytes_left < 0 and taken:
                    break
                taken += 1
            batch = [record for _, record in self.queue[:taken]]
            del self.queue[:taken]
            return batch

    def settle(self, batch):
        """Calls the function until every record of a batch is processed or given up."""
        setting = self.mapping.setting
        retries_max, age_max = setting("MaximumRetryAttempts", -1), setting("MaximumRecordAgeInSeconds", -1)
        # Records, retries that they used up, calls that the first of them has seen.
        pieces = [(batch, 0, 0)]
        while pieces and not self.mapping.gone.is_set():
            records, retries, calls = pieces.pop(0)
            now = datetime.datetime.now(datetime.timezone.utc)
            old = [r for r in records if (now - r["ApproximateArrivalTimestamp"]).total_seconds() > age_max > 0]
            if old:
                self.give_up(old, "RecordAgeExceeded", calls)
                records = records[len(old):]
                if not records:
                    continue
            done = self.call(records)
            if done is None:
                # Throttled: the function was not called, which costs no retry.
                pieces.insert(0, (records, retries, calls))
            elif done == len(records):
                self.mapping.says("OK")
                continue
            else:
                self.mapping.says("PROBLEM: Function call failed")
                if done > 0:
                    pieces.insert(0, (records[done:], 0, 0))
                elif setting("BisectBatchOnFunctionError", False) and len(records) > 1:
                    half = len(records) // 2
                    pieces[:0] = [(records[:half], retries, calls + 1), (records[half:], retries, calls + 1)]
                elif 0 <= retries_max <= retries:
                    self.give_up(records, "RetryAttemptsExhausted", calls + 1)
                    continue
                else:
                    pieces.insert(0, (records, retries + 1, calls + 1))
            # AWS does not document its own pauses.
            self.mapping.gone.wait(min(0.2 * 2 ** min(retries, 10), 5.0))

    def event(self, records):
        return {"Records": [{
            "kinesis": {
                "kinesisSchemaVersion": "1.0", "partitionKey": record["PartitionKey"], "sequenceNumber": record["SequenceNumber"],
                "data": base64.b64encode(record["Data"]).decode(),
                "approximateArrivalTimestamp": record["ApproximateArrivalTimestamp"].timestamp(),
            },
            "eventSource": "aws:kinesis", "eventVersion": "1.0", "eventName": "aws:kinesis:record",
            "eventID": f"{self.shard_id}:{record['SequenceNumber']}", "invokeIdentityArn": self.mapping.function()["Role"],
            "awsRegion": "us-east-1", "eventSourceARN": self.mapping.mapping["EventSourceArn"],
        } for record in records]}

    def call(self, records):
        """How many leading records are behind us; nothing if the function could not be called."""
        try:
            answer = client("lambda").invoke(FunctionName=self.mapping.function()["FunctionArn"], Payload=json.dumps(self.event(records)))
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "TooManyRequestsException":
                return None
            raise
        body = answer["Payload"].read()
        if "FunctionError" in answer:
            log.warning("%s failed: %s", self.mapping.mapping["FunctionName"], body[:500])
            return 0
        if "ReportBatchItemFailures" not in self.mapping.setting("FunctionResponseTypes", []):
            return len(records)
        failures = (json.loads(body or b"null") or {}).get("batchItemFailures") or []
        places = {record["SequenceNumber"]: place for place, record in enumerate(records)}
        # An identifier that is not of this batch fails all of it.
        return min((places.get(failure.get("itemIdentifier"), 0) for failure in failures), default=len(records))

    def give_up(self, records, condition, calls):
        destination = self.mapping.setting("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        log.warning("%s: %d records of %s given up, %s", self.mapping.mapping["FunctionName"], len(records), self.shard_id, condition)
        if not destination:
            return
        now = datetime.datetime.now(datetime.timezone.utc)
        first, last = records[0], records[-1]
        record = {
            "requestContext": {
                "requestId": str(uuid.uuid4()), "functionArn": self.mapping.function()["FunctionArn"], "condition": condition,
                "approximateInvokeCount": calls,
            },
            **({"responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"}} if calls else {}),
            "version": "1.0", "timestamp": iso(now),
            "KinesisBatchInfo": {
                "shardId": self.shard_id, "startSequenceNumber": first["SequenceNumber"], "endSequenceNumber": last["SequenceNumber"],
                "approximateArrivalOfFirstRecord": iso(first["ApproximateArrivalTimestamp"]),
                "approximateArrivalOfLastRecord": iso(last["ApproximateArrivalTimestamp"]),
                "batchSize": len(records), "streamArn": self.mapping.mapping["EventSourceArn"],
            },
        }
        service, account, name = re.fullmatch(r"arn:aws:(s3|sqs):[^:]*:([^:]*):(.+)", destination).groups()
        while not self.mapping.gone.is_set():
            try:
                if service == "sqs":
                    self.mapping.as_role("sqs").send_message(QueueUrl=f"{ENDPOINT}/{account}/{name}", MessageBody=json.dumps(record))
                else:
                    bucket = self.mapping.as_role("s3")
                    # AWS asks for s3:ListBucket beside s3:PutObject.
                    bucket.list_objects_v2(Bucket=name, MaxKeys=1)
                    key = f"aws/lambda/{self.mapping.mapping['UUID']}/{self.shard_id}/{now:%Y/%m/%d/%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"
                    whole = {**record, "payload": json.dumps(self.event(records))}
                    bucket.put_object(Bucket=name, Key=key, Body=json.dumps(whole).encode())
                return
            except botocore.exceptions.ClientError as error:
                # AWS drops the record then and counts it (DestinationDeliveryFailures); here somebody is to see it.
                log.error("on-failure destination %s of %s: %s", destination, self.mapping.mapping["FunctionName"], error)
                self.mapping.gone.wait(1)


def serve_mappings():
    lambda_svc._poll_kinesis = lambda: False
    running = {}

    def supervise():
        while True:
            mappings = {m["UUID"]: m for _, _, m in lambda_svc._iter_all_esms() if ":kinesis:" in m.get("EventSourceArn", "")}
            for identifier in mappings.keys() - running.keys():
                mapping = running[identifier] = Mapping(mappings[identifier])
                if "/consumer/" in mappings[identifier]["EventSourceArn"]:
                    log.warning("stand-in: the consumer of %s is not served", mappings[identifier]["FunctionName"])
                else:
                    mapping.start("mapping", mapping.run)
            for identifier in running.keys() - mappings.keys():
                running.pop(identifier).gone.set()
            time.sleep(0.5)

    threading.Thread(target=supervise, name="mappings", daemon=True).start()


# --- Kinesis: what a shard takes ---------------------------------------------------------------------------------------------


def limit_shards():
    bytes_max, records_max = 1024 * 1024, 1000
    left, lock = {}, threading.Lock()
    put_record, put_records = kinesis._put_record, kinesis._put_records

    def refused(stream, record):
        """Why a shard does not take a record now, or nothing; what it takes counts against the second."""
        hashed = record.get("ExplicitHashKey") or kinesis._partition_key_to_hash(record["PartitionKey"])
        shard = kinesis._route_to_shard(int(hashed), stream)
        size = len(base64.b64decode(record["Data"])) + len(record["PartitionKey"])
        with lock:
            now = time.monotonic()
            of_bytes, of_records, then = left.get((stream["StreamARN"], shard), (bytes_max, records_max, now))
            of_bytes = min(bytes_max, of_bytes + (now - then) * bytes_max)
            of_records = min(records_max, of_records + (now - then) * records_max)
            fits = of_bytes >= size and of_records >= 1
            left[stream["StreamARN"], shard] = (of_bytes - size * fits, of_records - fits, now)
        return None if fits else f"Rate exceeded for shard {shard} in stream {stream['StreamName']} under account {kinesis.get_account_id()}."

    def put_one(data):
        _, stream = kinesis._resolve_stream(data)
        why = stream and data.get("PartitionKey") and refused(stream, data)
        return kinesis.error_response_json("ProvisionedThroughputExceededException", why, 400) if why else put_record(data)

    def put_many(data):
        _, stream = kinesis._resolve_stream(data)
        if not stream or not all(record.get("PartitionKey") for record in data.get("Records", [])):
            return put_records(data)
        verdicts = [refused(stream, record) for record in data["Records"]]
        status, headers, body = put_records({**data, "Records": [r for r, why in zip(data["Records"], verdicts) if not why]})
        if status >= 400:
            return status, headers, body
        answer = json.loads(body)
        taken = iter(answer["Records"])
        answer["Records"] = [
            {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": why} if why else next(taken) for why in verdicts
        ]
        answer["FailedRecordCount"] = sum(why is not None for why in verdicts)
        if answer["FailedRecordCount"]:
            log.info("%d of %d records refused by their shards", answer["FailedRecordCount"], len(verdicts))
        return status, headers, json.dumps(answer).encode()

    kinesis._put_record, kinesis._put_records = put_one, put_many


# --- IAM: plain HTTP as if it were TLS ---------------------------------------------------------------------------------------


def pretend_tls():
    resolve = iam_evaluator._resolve_condition_key
    iam_evaluator._resolve_condition_key = lambda key, about: "true" if key.lower() == "aws:securetransport" else resolve(key, about)


# --- CloudFormation: what the emulator does not know -------------------------------------------------------------------------


def inert(kind):
    """Provisioners that record a resource and print that it does nothing."""
    def create(logical_id, properties, stack):
        log.warning("stand-in: %s (%s) is recorded and does nothing", logical_id, kind)
        name = f"{stack}-{logical_id}-{uuid.uuid4().hex[:8]}"
        arn = f"arn:aws:stand-in:us-east-1:000000000000:{name}"
        return name, {"Arn": arn, "ConsumerARN": arn}

    return {"create": create, "update": lambda name, *_, **__: (name, {"Arn": f"arn:aws:stand-in:us-east-1:000000000000:{name}"}), "delete": lambda *_: None}


class Handlers(dict):
    """Provisioners by type; a type of AWS without one gets one that does nothing."""

    def __contains__(self, kind):
        return super().__contains__(kind) or kind.startswith("AWS::")

    def get(self, kind, default=None):
        return super().get(kind) or inert(kind) if kind in self else default


def accept_every_type():
    handlers = provisioners._RESOURCE_HANDLERS = Handlers(provisioners._RESOURCE_HANDLERS)
    alarm = handlers["AWS::CloudWatch::Alarm"]
    of_metric_math = inert("AWS::CloudWatch::Alarm of metric math")

    def choose(step, place):
        """The step of a plain alarm, or of one of metric math; its properties are the argument at this place."""
        plain, other = alarm[step], of_metric_math[step]
        return lambda *args, **named: (other if "Metrics" in args[place] else plain)(*args, **named)

    handlers["AWS::CloudWatch::Alarm"] = {
        **alarm, "create": choose("create", 1), "update": choose("update", 2), "delete": choose("delete", 1),
    }


def never_repeat_names():
    provision = stacks._provision_resource

    def with_new_name(*args):
        if not provisioners._NAME_SEED.get():
            provisioners._NAME_SEED.set(uuid.uuid4().hex[:8])
        return provision(*args)

    stacks._provision_resource = with_new_name


# --- EventBridge: schedules --------------------------------------------------------------------------------------------------


def hurry_schedules():
    period_of = eventbridge._parse_rate_seconds

    def capped(expression):
        period = period_of(expression)
        return period and min(period, WAIT_MAX_S)

    eventbridge._parse_rate_seconds = capped
    if WAIT_MAX_S < eventbridge._SCHEDULER_TICK_INTERVAL:
        eventbridge._SCHEDULER_TICK_INTERVAL = WAIT_MAX_S


def main():
    import_bodies()
    refuse_unsigned()
    serve_mappings()
    limit_shards()
    pretend_tls()
    accept_every_type()
    never_repeat_names()
    hurry_schedules()
    app.main()


if __name__ == "__main__":
    main()
