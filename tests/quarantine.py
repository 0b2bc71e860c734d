"""Lists, shows, replays and discards with `greenwave quarantine` against the bucket and the stream of an emulator.

Run it with `make adapters`, which builds `greenwave` with its feature `aws` and names the program here.
"""

import base64
import json
import os
import pathlib
import subprocess
import sys
import uuid

import boto3

from invoke import ministack
from processes import offline_credentials, processes

BATCHES = "aws/lambda/f2b6e7a1-52c1-4a8e-9d52-0d9f4e1b7c11/"


def poison(s3, bucket, function, shard, record, reason):
    """Puts a record aside as the functions do (shared/src/aws/s3.rs)."""
    name = f"{function}/{shard}/{record['sequence']}"
    metadata = {"key": record["key"], "function": function, "reason": reason}
    s3.put_object(Bucket=bucket, Key=name, Body=record["data"], Metadata=metadata)
    return name


def failed_batch(s3, bucket, shard, records):
    """Puts a batch aside as Lambda does with a destination of type S3."""
    event = [
        {
            "kinesis": {
                "kinesisSchemaVersion": "1.0", "partitionKey": record["key"], "sequenceNumber": record["sequence"],
                "data": base64.b64encode(record["data"]).decode(), "approximateArrivalTimestamp": 1795334405.123,
            },
            "eventSource": "aws:kinesis", "eventVersion": "1.0", "eventID": f"{shard}:{record['sequence']}",
            "eventName": "aws:kinesis:record", "awsRegion": "us-east-1",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/readings",
        }
        for record in records
    ]
    record = {
        "requestContext": {
            "requestId": str(uuid.uuid4()), "condition": "RetryAttemptsExhausted", "approximateInvokeCount": 6,
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:city-MaintenancePrediction-1QX",
        },
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "version": "1.0", "timestamp": "2026-11-22T08:00:06.021Z",
        "KinesisBatchInfo": {
            "shardId": shard, "startSequenceNumber": records[0]["sequence"], "endSequenceNumber": records[-1]["sequence"],
            "approximateArrivalOfFirstRecord": "2026-11-22T08:00:05.123Z",
            "approximateArrivalOfLastRecord": "2026-11-22T08:00:05.123Z", "batchSize": len(records),
            "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/readings",
        },
        "payload": json.dumps({"Records": event}),
    }
    name = f"{BATCHES}{shard}/2026/11/22/2026-11-22T08.00.06-{uuid.uuid4()}"
    s3.put_object(Bucket=bucket, Key=name, Body=json.dumps(record))
    return name


def check(greenwave, endpoint):
    """Goes once round the quarantine with this binary; raises AssertionError where something is not as expected."""
    client = lambda service: boto3.client(service, endpoint_url=endpoint, region_name="us-east-1")
    s3, kinesis = client("s3"), client("kinesis")
    bucket = stream = f"quarantine-check-{uuid.uuid4().hex[:8]}"
    s3.create_bucket(Bucket=bucket)
    kinesis.create_stream(StreamName=stream, ShardCount=1)
    environment = {**os.environ, "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}

    def give(*arguments, fails=False):
        command = [greenwave, "quarantine", *arguments, "--bucket", bucket]
        ended = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
        assert (ended.returncode != 0) == fails, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr

    def put(key, data):
        answer = kinesis.put_record(StreamName=stream, PartitionKey=key, Data=data)
        return {"key": key, "data": data, "sequence": answer["SequenceNumber"]}, answer["ShardId"]

    def on_stream():
        at = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard, ShardIteratorType="TRIM_HORIZON")
        records = kinesis.get_records(ShardIterator=at["ShardIterator"], Limit=1000)["Records"]
        return [(record["PartitionKey"], record["Data"], record["SequenceNumber"]) for record in records]

    def names(prefix=""):
        return [item["Key"] for item in s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])]

    assert give("list") == "Nothing is in the quarantine.\n"
    records, shard = [], None
    for key, data in [("J1", b"1"), ("J2", b"2"), ("J1", b"\xff\x003"), ("J1", b"4"), ("J2", b"5")]:
        record, shard = put(key, data)
        records.append(record)
    batch = failed_batch(s3, bucket, shard, [records[0], records[3], records[4]])
    unreadable = [poison(s3, bucket, function, shard, records[2], "not a record: 100 %25")
                  for function in ["maintenance-prediction", "signal-adjustment"]]
    alone = poison(s3, bucket, "signal-adjustment", shard, records[1], "record version 9 is not 1")
    s3.put_object(Bucket=bucket, Key=f"{BATCHES}broken", Body=b"{")
    s3.put_object(Bucket=bucket, Key="notes.txt", Body=b"left here by somebody")

    listed = {entry["id"]: entry for entry in json.loads(give("list", "--json"))}
    assert set(listed) == {batch, *unreadable, alone, f"{BATCHES}broken", "notes.txt"}, listed
    assert [listed[batch][name] for name in ["kind", "function", "records", "bytes", "keys"]] == [
        "failed_batch", "city-MaintenancePrediction-1QX", 3, 3, ["J1", "J2"]], listed[batch]
    assert listed[unreadable[0]]["reason"] == "not a record: 100 %" and listed[alone]["at"].endswith("Z")
    assert "6 entries: 3 poison, 1 failed batch, 2 unreadable." in give("list")
    assert "2 entries of 6: 1 poison, 1 failed batch." in give("list", "--function", "maintenance-prediction")
    shown = give("show", unreadable[0])
    assert "00000000  ff 00 33" in shown and "key J1" in shown, shown
    assert "RetryAttemptsExhausted after 6 calls" in give("show", batch)

    assert "which stream?" in give("replay", "--yes", fails=True)
    said = give("replay", "--stream", stream)
    assert "5 records of 2 keys from 4 entries" in said and "Nothing was done" in said, said
    assert len(names()) == 6 and len(on_stream()) == 5
    said = give("replay", "--stream", stream, "--yes")
    assert "5 of 5 records are on the stream again, 4 of 4 entries done" in said, said
    again = on_stream()[5:]
    for key in ["J1", "J2"]:
        sent = [data for sent_key, data, _ in again if sent_key == key]
        assert sent == [record["data"] for record in records if record["key"] == key], sent
    assert sorted(names("replayed/")) == sorted(f"replayed/{name}" for name in [batch, *unreadable, alone])
    assert "it was replayed at" in give("show", alone, fails=True)

    key, data, sequence = next(record for record in again if record[1] == records[2]["data"])
    back = poison(s3, bucket, "signal-adjustment", shard, {"key": key, "data": data, "sequence": sequence}, "not a record: still")
    listed = {entry["id"]: entry for entry in json.loads(give("list", "--json"))}
    assert listed[back]["came_back"] == 1 and len(listed) == 3, listed
    shown = give("show", back)
    assert "came back once:" in shown and shown.count("poison by") == 2, shown

    assert "--until" in give("discard", "--yes", fails=True)
    assert "Nothing was done" in give("discard", "--reason", "not a record: still")
    assert give("discard", "--reason", "not a record: still", "--yes") == "Discarded 1 entry.\n"
    assert give("discard", f"{BATCHES}broken", "notes.txt", "--yes") == "Discarded 2 entries.\n"
    assert give("list") == "Nothing is in the quarantine.\n" and len(names()) == 4


def main():
    offline_credentials()
    with processes("quarantine") as started:
        endpoint, _ = ministack(started)
        check(pathlib.Path(sys.argv[1]).absolute(), endpoint)
    print("ok   list, show, replay and discard against a bucket and a stream")


if __name__ == "__main__":
    main()
