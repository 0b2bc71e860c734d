//! List prices of AWS in us-east-1, each with its unit and its source. Most were read on pages of others that quote AWS's lists, on
//! the day of [`READ_ON`]; how units are rounded is AWS's own word, and two were known before and not read again, as they say. A
//! change of price is a change here.

/// What a unit of something costs.
#[derive(Debug, PartialEq)]
pub(super) struct Price {
    /// What is bought.
    pub(super) unit: &'static str,
    /// Dollars for `per` units.
    pub(super) dollars: f64,
    /// Units that the price is quoted for.
    pub(super) per: f64,
    /// Where it was read, with the date of that page where it has one.
    pub(super) source: &'static str,
}

impl Price {
    /// Dollars for so many units.
    pub(super) fn of(&self, units: f64) -> f64 {
        units * self.dollars / self.per
    }
}

/// Region of the prices.
pub(super) const REGION: &str = "us-east-1";
/// When the sources were read.
pub(super) const READ_ON: &str = "2026-11-22";

const MILLION: f64 = 1e6;

pub(super) const API_REQUEST: Price = Price {
    unit: "HTTP API request, each started 512 KB",
    dollars: 1.00,
    per: MILLION,
    source: "apigatewaycost.com/aws (2026); increments: aws.amazon.com/api-gateway/pricing",
};
pub(super) const LAMBDA_REQUEST: Price = Price {
    unit: "Lambda request",
    dollars: 0.20,
    per: MILLION,
    source: "cloudchipr.com/blog/aws-lambda-pricing (2024), go-cloud.io (2026)",
};
pub(super) const LAMBDA_GB_S_X86: Price = Price {
    unit: "Lambda GB-second, x86_64",
    dollars: 0.000_016_666_7,
    per: 1.0,
    source: "cloudchipr.com/blog/aws-lambda-pricing (2024); arm64 is $0.0000133334",
};
pub(super) const STREAM_HOUR: Price = Price { unit: "Kinesis stream hour, on demand", dollars: 0.04, per: 1.0, source: KINESIS };
pub(super) const STREAM_IN: Price =
    Price { unit: "Kinesis GB in, on demand, each record up to a full KB", dollars: 0.08, per: 1.0, source: KINESIS };
pub(super) const STREAM_OUT: Price = Price { unit: "Kinesis GB out, on demand", dollars: 0.04, per: 1.0, source: KINESIS };
pub(super) const SHARD_HOUR: Price = Price { unit: "Kinesis shard hour, provisioned", dollars: 0.015, per: 1.0, source: KINESIS };
pub(super) const SHARD_HOUR_RETAINED: Price = Price {
    unit: "Kinesis shard hour of retention beyond a day, provisioned",
    dollars: 0.02,
    per: 1.0,
    source: "awsnegotiations.com/kinesis-pricing-optimization.html",
};
pub(super) const STREAM_RETAINED: Price = Price {
    unit: "Kinesis GB-month of retention beyond a day, on demand",
    dollars: 0.10,
    per: 1.0,
    source: "aws.amazon.com/kinesis/data-streams/pricing, known before, not read again",
};
pub(super) const PUT_UNIT: Price =
    Price { unit: "Kinesis PUT payload unit, each started 25 KB of a record, provisioned", dollars: 0.014, per: MILLION, source: KINESIS };
const KINESIS: &str = "trek10.com, Kinesis on-demand vs. provisioned (2023-09-21); rounding: aws.amazon.com/kinesis/data-streams/pricing";
pub(super) const TABLE_WRITE: Price =
    Price { unit: "DynamoDB write request unit, each started KB", dollars: 0.625, per: MILLION, source: TABLES };
pub(super) const TABLE_READ: Price = Price {
    unit: "DynamoDB read request unit, each started 4 KB, half if eventually consistent",
    dollars: 0.125,
    per: MILLION,
    source: TABLES,
};
const TABLES: &str = "airbyte.com/data-engineering-resources/dynamodb-pricing (after the cut of 2024-11-01); units: aws.amazon.com/dynamodb/pricing/on-demand";
pub(super) const TABLE_STORAGE: Price = Price { unit: "DynamoDB GB-month", dollars: 0.25, per: 1.0, source: STORAGE };
pub(super) const TABLE_RECOVERY: Price =
    Price { unit: "DynamoDB GB-month of point-in-time recovery", dollars: 0.20, per: 1.0, source: STORAGE };
const STORAGE: &str = "docs.echo.stream/docs/table-pricing (2024-11-14, in tenfold units)";
pub(super) const LOG_IN: Price =
    Price { unit: "CloudWatch Logs GB ingested", dollars: 0.50, per: 1.0, source: "factualminds.com, CloudWatch pricing (2026-06-13)" };
pub(super) const LOG_STORAGE: Price =
    Price { unit: "CloudWatch Logs GB-month", dollars: 0.03, per: 1.0, source: "factualminds.com, CloudWatch pricing (2026-06-13)" };
pub(super) const METRIC: Price = Price {
    unit: "CloudWatch custom metric and month",
    dollars: 0.30,
    per: 1.0,
    source: "signoz.io/guides/cloudwatch-pricing (2026-02-15)",
};
pub(super) const ALARM: Price = Price {
    unit: "CloudWatch alarm, metric that it looks at and month",
    dollars: 0.10,
    per: 1.0,
    source: "factualminds.com, CloudWatch pricing (2026-06-13)",
};
pub(super) const DASHBOARD: Price =
    Price { unit: "CloudWatch dashboard and month", dollars: 3.00, per: 1.0, source: "factualminds.com, CloudWatch pricing (2026-06-13)" };
pub(super) const EVENT: Price = Price {
    unit: "EventBridge custom event",
    dollars: 1.00,
    per: MILLION,
    source: "cloudburn.io/blog/amazon-eventbridge-pricing (2026-03-13)",
};
pub(super) const OBJECT_PUT: Price =
    Price { unit: "S3 PUT", dollars: 0.005, per: 1000.0, source: "c3x.dev/blog/s3-request-fees-explained (2026)" };
pub(super) const KEY_REQUEST: Price =
    Price { unit: "KMS request", dollars: 0.03, per: 10_000.0, source: "cloudburn.io/blog/aws-kms-pricing (2026-03-14)" };
pub(super) const TRACE: Price = Price {
    unit: "X-Ray trace recorded",
    dollars: 5.00,
    per: MILLION,
    source: "aws.amazon.com/xray/pricing, known before, not read again",
};
