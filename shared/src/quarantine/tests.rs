use super::*;

fn record(key: &str, data: &[u8]) -> HeldRecord {
    HeldRecord { shard: "shardId-000000000001".into(), sequence: "7".into(), key: key.into(), data: data.to_vec(), arrived_at: None }
}

#[test]
fn the_digest_names_key_and_bytes_and_nothing_else() {
    let moved = HeldRecord { shard: "shardId-000000000002".into(), sequence: "9".into(), ..record("J1", b"x") };
    assert_eq!(record("J1", b"x").digest(), moved.digest());
    assert_eq!(moved.digest().len(), 64);
    assert_ne!(record("J1", b"x").digest(), record("J", b"1x").digest());
    assert_ne!(record("J1", b"x").digest(), record("J1", b"y").digest());
}

#[test]
fn sequence_numbers_compare_as_numbers() {
    let order = StreamOrder::of;
    assert!(order("9") < order("10") && order("49601189658422359378836298521827") < order("149601189658422359378836298521827"));
    assert_eq!(order("000000000000000000007"), order("7"));
}

#[cfg(feature = "batch")]
mod invocation {
    use super::super::*;

    /// The sample of the developer guide, with a payload.
    fn sample(payload: &serde_json::Value) -> serde_json::Value {
        serde_json::json!({
            "requestContext": {
                "requestId": "c9b8fa9f-5a7f-4d2a-af9c-0c604cde93a5",
                "functionArn": "arn:aws:lambda:us-east-2:123456789012:function:city-SignalAdjustment-1QX:$LATEST",
                "condition": "RetryAttemptsExhausted",
                "approximateInvokeCount": 6
            },
            "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
            "version": "1.0",
            "timestamp": "2026-11-22T08:00:06.021Z",
            "KinesisBatchInfo": {
                "shardId": "shardId-000000000001",
                "startSequenceNumber": "49601189658422359378836298521827638475320189012309704722",
                "endSequenceNumber": "49601189658422359378836298522902373528957594348623495186",
                "approximateArrivalOfFirstRecord": "2026-11-22T08:00:04.835Z",
                "approximateArrivalOfLastRecord": "2026-11-22T08:00:05.580Z",
                "batchSize": 2,
                "streamArn": "arn:aws:kinesis:us-east-2:123456789012:stream/readings"
            },
            "payload": payload,
        })
    }

    fn event() -> String {
        let record = |sequence: &str, data: &str| {
            serde_json::json!({
                "kinesis": {
                    "kinesisSchemaVersion": "1.0",
                    "partitionKey": "J1",
                    "sequenceNumber": sequence,
                    "data": data,
                    "approximateArrivalTimestamp": 1_795_334_404.835
                },
                "eventSource": "aws:kinesis",
                "eventVersion": "1.0",
                "eventID": format!("shardId-000000000001:{sequence}"),
                "eventName": "aws:kinesis:record",
                "invokeIdentityArn": "arn:aws:iam::123456789012:role/city",
                "awsRegion": "us-east-2",
                "eventSourceARN": "arn:aws:kinesis:us-east-2:123456789012:stream/readings"
            })
        };
        serde_json::json!({"Records": [record("49601", "/wA="), record("49602", "e30=")]}).to_string()
    }

    #[test]
    fn the_record_of_an_invocation_gives_back_every_record_with_its_bytes() {
        let at = Timestamp::parse("2026-11-22T08:00:07Z").ok();
        let entry = failed_batch("aws/lambda/x", at, sample(&event().into()).to_string().as_bytes());
        assert_eq!((entry.kind, entry.function.as_str(), entry.at), (Kind::FailedBatch, "city-SignalAdjustment-1QX", at));
        assert_eq!(entry.reason, "RetryAttemptsExhausted after 6 calls");
        let first = HeldRecord {
            shard: "shardId-000000000001".into(),
            sequence: "49601".into(),
            key: "J1".into(),
            data: vec![0xff, 0],
            arrived_at: Timestamp::parse("2026-11-22T08:00:04.835Z").ok(),
        };
        assert_eq!(entry.records.first(), Some(&first));
        assert_eq!((entry.records.len(), entry.bytes()), (2, 4));
    }

    #[test]
    fn what_holds_no_records_is_unreadable_and_says_what_is_known() {
        let unreadable = |json: &str| {
            let entry = failed_batch("aws/lambda/x", None, json.as_bytes());
            assert_eq!((entry.kind, entry.records.len()), (Kind::Unreadable, 0));
            entry.reason
        };
        assert!(unreadable("{}").contains("missing field `requestContext`"));
        assert!(unreadable("\u{0}").contains("not the record of an invocation"));
        for (payload, part) in
            [(serde_json::Value::Null, "the place alone"), ("no".into(), "no Kinesis event"), (r#"{"Records": []}"#.into(), "no records")]
        {
            let reason = unreadable(&sample(&payload).to_string());
            assert!(reason.contains(part) && reason.contains("2 records of shardId-000000000001 from 4960"), "{reason}");
        }
    }
}
