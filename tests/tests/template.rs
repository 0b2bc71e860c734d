//! `template.yaml` against `openapi.yaml` and the local host: what is deployed is what is described and tested.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a failing test may panic")]

use std::collections::{BTreeMap, BTreeSet};

use greenwave::mapping::Settings;
use greenwave::serve::{maintenance_prediction_settings, signal_adjustment_settings};
use serde_yaml_ng::Value;

const TEMPLATE: &str = include_str!("../../template.yaml");
const OPENAPI: &str = include_str!("../../openapi.yaml");
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "patch", "head", "options", "trace"];
const SWEEP: &str = include_str!("../../events/maintenance-prediction/sweep.json");
const RUNBOOK: &str = include_str!("../../docs/RUNBOOK.md");
/// Where metrics of a function are emitted, its `main.rs` first.
const EMITTED: [(&str, &[&str]); 4] = [
    (
        "SensorIngestion",
        &[include_str!("../../functions/sensor-ingestion/src/main.rs"), include_str!("../../functions/sensor-ingestion/src/workflow.rs")],
    ),
    (
        "SignalAdjustment",
        &[include_str!("../../functions/signal-adjustment/src/main.rs"), include_str!("../../functions/signal-adjustment/src/lib.rs")],
    ),
    (
        "MaintenancePrediction",
        &[
            include_str!("../../functions/maintenance-prediction/src/main.rs"),
            include_str!("../../functions/maintenance-prediction/src/lib.rs"),
            include_str!("../../functions/maintenance-prediction/src/workflow.rs"),
        ],
    ),
    ("OperationsApi", &[include_str!("../../functions/operations-api/src/main.rs")]),
];
/// What every process emits that calls its `start`.
const TELEMETRY: &str = include_str!("../../shared/src/aws/telemetry.rs");
const MAKEFILE: &str = include_str!("../../Makefile");
const FUNCTION: &str = "AWS::Serverless::Function";
const TABLE: &str = "AWS::DynamoDB::Table";
/// Functions behind the stream.
const PROCESSORS: [&str; 2] = ["SignalAdjustment", "MaintenancePrediction"];

/// A document in which short forms such as `!Ref` are replaced by their argument.
fn load(text: &str) -> Value {
    plain(serde_yaml_ng::from_str(text).unwrap())
}

fn plain(value: Value) -> Value {
    match value {
        Value::Tagged(tagged) => plain(tagged.value),
        Value::Sequence(items) => items.into_iter().map(plain).collect(),
        Value::Mapping(fields) => Value::Mapping(fields.into_iter().map(|(name, value)| (name, plain(value))).collect()),
        value => value,
    }
}

fn fields(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_mapping().into_iter().flatten().map(|(name, value)| (name.as_str().unwrap(), value))
}

fn resources_of<'t>(template: &'t Value, kind: &str) -> BTreeMap<&'t str, &'t Value> {
    fields(&template["Resources"]).filter(|(_, resource)| resource["Type"] == *kind).collect()
}

/// Method and path of each operation.
fn operations(paths: &Value) -> BTreeSet<(String, String)> {
    let of_path = |(path, item)| fields(item).map(move |(method, _)| (method, path));
    let operations = fields(paths).flat_map(of_path).filter(|(method, _)| METHODS.contains(method));
    operations.map(|(method, path)| (method.to_owned(), path.to_owned())).collect()
}

/// Properties of the one event of this type that the function has.
fn event<'t>(template: &'t Value, function: &str, kind: &str) -> &'t Value {
    let events = &template["Resources"][function]["Properties"]["Events"];
    let found: Vec<_> = fields(events).filter(|(_, event)| event["Type"] == *kind).collect();
    assert_eq!(found.len(), 1, "{function}: {found:#?}");
    &found[0].1["Properties"]
}

/// How the stream is handed to a function of a stack whose parameters have their defaults.
fn settings(template: &Value, function: &str) -> Settings {
    let mut mapping = event(template, function, "Kinesis").clone();
    // !FindInMap [table, parameter, name]
    if let Some([table, parameter, name]) = mapping["MaximumRecordAgeInSeconds"].as_sequence().map(Vec::as_slice) {
        let row = template["Parameters"][parameter]["Default"].as_i64().unwrap().to_string();
        mapping["MaximumRecordAgeInSeconds"] = template["Mappings"][table][row][name].clone();
    }
    serde_yaml_ng::from_value(mapping).unwrap()
}

#[test]
fn a_record_is_put_aside_an_hour_before_the_stream_forgets_it_whatever_its_retention() {
    let template = load(TEMPLATE);
    let retention = &template["Parameters"]["StreamRetentionHours"];
    assert_eq!(template["Resources"]["ReadingStream"]["Properties"]["RetentionPeriodHours"], *"StreamRetentionHours");
    let ages: Vec<_> = fields(&template["Mappings"]["StreamRetention"]).collect();
    let allowed: Vec<_> = retention["AllowedValues"].as_sequence().unwrap().iter().map(|hours| hours.as_i64().unwrap()).collect();
    assert_eq!(ages.iter().map(|(hours, _)| hours.parse::<i64>().unwrap()).collect::<Vec<_>>(), allowed);
    assert!(ages.iter().all(|(hours, age)| age["RecordAgeMaxS"] == (hours.parse::<i64>().unwrap() - 1) * 3_600), "{ages:?}");
}

#[test]
fn every_described_operation_leads_to_exactly_one_function_and_nothing_else_is_open() {
    let template = load(TEMPLATE);
    let described = operations(&load(OPENAPI)["paths"]);
    assert!(described.contains(&("post".into(), "/v1/readings".into())));

    let mut routes = Vec::new();
    for (name, function) in resources_of(&template, FUNCTION) {
        for (event, source) in fields(&function["Properties"]["Events"]).filter(|(_, source)| source["Type"] == *"HttpApi") {
            let text = |field: &str| source["Properties"][field].as_str().unwrap_or_else(|| panic!("{name}/{event}: {field}")).to_owned();
            routes.push((text("Method").to_lowercase(), text("Path")));
        }
    }
    let unique: BTreeSet<_> = routes.iter().cloned().collect();
    assert_eq!(unique.len(), routes.len(), "a route leads to two functions: {routes:#?}");
    assert_eq!(unique, described);
}

#[test]
fn every_route_says_who_may_call_it_and_only_health_and_the_description_are_open() {
    let template = load(TEMPLATE);
    let described = load(OPENAPI);
    let paths = &template["Resources"]["Api"]["Properties"]["DefinitionBody"]["paths"];
    assert_eq!(operations(paths), operations(&described["paths"]));
    for (method, path) in operations(paths) {
        let security = paths[path.as_str()][method.as_str()]["security"].as_sequence();
        let needed = described["paths"][path.as_str()][method.as_str()].get("security").or_else(|| described.get("security"));
        let needed = needed.unwrap().as_sequence().unwrap();
        let security = security.unwrap_or_else(|| panic!("{method} {path} says nothing of security"));
        // As described, and each scope as Cognito writes it besides; one of them is enough.
        let mut needed = needed.clone();
        if let Some(scopes) = needed.first_mut().and_then(|scheme| scheme.get_mut("operators")).and_then(Value::as_sequence_mut) {
            scopes.extend(scopes.clone().iter().map(|scope| scope.as_str().unwrap().replace(':', "/").into()));
        }
        assert_eq!(security, &needed, "{method} {path}");
    }
    let open: Vec<_> = operations(paths).into_iter().filter(|(m, p)| paths[p.as_str()][m.as_str()]["security"][0].is_null()).collect();
    assert_eq!(open, ["/openapi.json", "/v1/health"].map(|path| ("get".to_owned(), path.to_owned())));
}

#[test]
fn of_the_pools_clients_one_may_write_and_the_api_takes_tokens_of_all() {
    let template = load(TEMPLATE);
    let clients = resources_of(&template, "AWS::Cognito::UserPoolClient");
    let may_write = |client: &Value| client["Properties"]["AllowedOAuthScopes"].as_sequence().unwrap().contains(&"operations/write".into());
    let writers: Vec<_> = clients.iter().filter(|(_, client)| may_write(client)).map(|(name, _)| *name).collect();
    assert_eq!(writers, ["OperatorsClient"]);
    let schemes = &template["Resources"]["Api"]["Properties"]["DefinitionBody"]["components"]["securitySchemes"];
    // !If [HasJwt, the audience of a foreign issuer, those of the pool]
    let audience = &schemes["operators"]["x-amazon-apigateway-authorizer"]["jwtConfiguration"]["audience"];
    assert_eq!(audience[1].as_sequence().unwrap(), &["JwtAudience"]);
    let of_pool: BTreeSet<_> = audience[2].as_sequence().unwrap().iter().map(|client| client.as_str().unwrap()).collect();
    assert_eq!(of_pool, clients.keys().copied().collect());
    let outputs: BTreeSet<_> = fields(&template["Outputs"]).filter_map(|(_, output)| output["Value"].as_str()).collect();
    assert!(clients.keys().all(|client| outputs.contains(client)), "whoever deploys cannot find a client");
}

#[test]
fn each_mapping_isolates_what_fails_gives_up_at_last_and_keeps_what_it_gave_up() {
    let template = load(TEMPLATE);
    for function in PROCESSORS {
        let mapping = event(&template, function, "Kinesis");
        let settings = settings(&template, function);
        assert!(settings.report_batch_item_failures && settings.bisect_batch_on_function_error, "{settings:?}");
        assert!((0..=100).contains(&settings.maximum_retry_attempts), "{settings:?}");
        let retention = 3_600 * i32::try_from(template["Parameters"]["StreamRetentionHours"]["Default"].as_i64().unwrap()).unwrap();
        assert!((60..retention).contains(&settings.maximum_record_age_in_seconds), "the stream may forget it before: {settings:?}");
        assert_eq!(mapping["StartingPosition"], *"TRIM_HORIZON");

        // A bucket gets the records themselves, a queue or a topic only their place on the stream.
        let on_failure = &mapping["DestinationConfig"]["OnFailure"];
        assert_eq!((&on_failure["Type"], &on_failure["Destination"]), (&"S3".into(), &"Quarantine.Arn".into()));
        let granted = grants(&template, &template["Resources"][function]);
        for (action, resource) in [("s3:PutObject", "${Quarantine.Arn}/aws/lambda/*"), ("s3:ListBucket", "Quarantine.Arn")] {
            assert!(granted.contains(&(action.to_owned(), resource.to_owned())), "{function}: {action}");
        }
        assert_eq!(mapping["MetricsConfig"]["Metrics"][0], *"EventCount", "the alarms on batches that were given up need it");
    }
}

#[test]
fn every_function_behind_the_stream_is_a_processor_of_these_tests() {
    let template = load(TEMPLATE);
    let on_stream = |function: &Value| fields(&function["Properties"]["Events"]).any(|(_, event)| event["Type"] == *"Kinesis");
    let found = resources_of(&template, FUNCTION).into_iter().filter(|(_, function)| on_stream(function)).map(|(name, _)| name);
    assert_eq!(found.collect::<BTreeSet<_>>(), PROCESSORS.into());
}

#[test]
fn the_local_host_delivers_as_the_deployed_mappings_do() {
    let template = load(TEMPLATE);
    // A laptop may have been closed over the weekend: there no record gets too old. Nor is a call so dear that it waits for a
    // fuller batch.
    let local = |settings| Settings { maximum_record_age_in_seconds: -1, maximum_batching_window_in_seconds: 0, ..settings };
    assert_eq!(signal_adjustment_settings(), local(settings(&template, "SignalAdjustment")));
    assert_eq!(maintenance_prediction_settings(), local(settings(&template, "MaintenancePrediction")));
}

#[test]
fn costs_are_computed_for_what_is_deployed() {
    let template = load(TEMPLATE);
    assert_eq!(greenwave::cost::deployed_settings(), PROCESSORS.map(|function| settings(&template, function)));
    assert_eq!(template["Parameters"]["StreamRetentionHours"]["Default"], greenwave::cost::RETENTION_H);
    let metrics = |alarm: &Value| {
        alarm["Properties"]["Metrics"].as_sequence().map_or(1, |all| all.iter().filter(|of| of.get("MetricStat").is_some()).count())
    };
    assert_eq!(resources_of(&template, ALARM).values().map(|alarm| metrics(alarm)).sum::<usize>(), greenwave::cost::ALARM_METRICS);
    for (function, memory_mib) in greenwave::cost::MEMORY_MIB {
        assert_eq!(template["Resources"][function]["Properties"]["MemorySize"], memory_mib, "{function}");
    }
}

#[test]
fn the_schedule_asks_for_a_sweep_as_the_sample_event_does() {
    let template = load(TEMPLATE);
    let schedule = event(&template, "MaintenancePrediction", "Schedule");
    let input: serde_json::Value = serde_json::from_str(schedule["Input"].as_str().unwrap()).unwrap();
    assert_eq!(input, serde_json::from_str::<serde_json::Value>(SWEEP).unwrap());
}

/// What a function may do: actions, each with the resource it is for. A statement may depend on a condition.
fn grants(template: &Value, function: &Value) -> Vec<(String, String)> {
    let (role, _) = function["Properties"]["Role"].as_str().unwrap().split_once('.').unwrap();
    let policies = template["Resources"][role]["Properties"]["Policies"].as_sequence().unwrap();
    let statements = policies.iter().flat_map(|policy| policy["PolicyDocument"]["Statement"].as_sequence().unwrap());
    statements.map(|statement| statement.get(1).unwrap_or(statement)).flat_map(granted_by).collect()
}

/// Actions of a statement, each with the resource it is for.
fn granted_by(statement: &Value) -> Vec<(String, String)> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_sequence().cloned().unwrap_or_else(|| vec![value.clone()]);
        all.iter().map(|text| text.as_str().unwrap_or_else(|| panic!("{statement:?}")).to_owned()).collect()
    };
    assert_eq!(statement["Effect"], *"Allow", "{statement:?}");
    let each = |resource: String| texts(&statement["Action"]).into_iter().map(move |action| (action, resource.clone()));
    texts(&statement["Resource"]).into_iter().flat_map(each).collect()
}

/// The resource of this template that a text such as `Junctions.Arn` or `${Junctions.Arn}/index/ids` is about.
fn resource_in(text: &str) -> &str {
    let name = text.strip_prefix("${").unwrap_or(text);
    name.split(['.', '}']).next().unwrap()
}

#[test]
fn every_table_has_exactly_one_writer_the_one_that_its_comment_names() {
    let template = load(TEMPLATE);
    let writes = |action: &str| ["PutItem", "UpdateItem", "DeleteItem", "BatchWriteItem"].iter().any(|write| action.ends_with(write));
    for table in resources_of(&template, TABLE).into_keys() {
        let may_write =
            |function: &Value| grants(&template, function).iter().any(|(action, of)| writes(action) && resource_in(of) == table);
        let functions = resources_of(&template, FUNCTION);
        let writers: Vec<_> = functions.values().filter(|function| may_write(function)).collect();
        assert_eq!(writers.len(), 1, "{table}");
        let writer = writers[0]["Metadata"]["BuildProperties"]["Binary"].as_str().unwrap();
        let (before, _) = TEMPLATE.split_once(&format!("\n  {table}:\n    Type: {TABLE}")).unwrap();
        let comment = before.lines().next_back().unwrap();
        assert!(comment.contains(&format!("Written by {writer}.")), "{table}: {comment}");
    }
}

#[test]
fn a_function_may_touch_what_its_environment_names_and_nothing_else() {
    let template = load(TEMPLATE);
    let kinds = [TABLE, "AWS::S3::Bucket", "AWS::Events::EventBus", "AWS::Kinesis::Stream"];
    let is_kept = |name: &str| kinds.iter().any(|kind| template["Resources"][name]["Type"] == **kind);
    for (name, function) in resources_of(&template, FUNCTION) {
        let variables = fields(&function["Properties"]["Environment"]["Variables"]).filter_map(|(_, value)| value.as_str());
        let named: BTreeSet<_> = variables.filter(|value| is_kept(value)).map(str::to_owned).collect();
        let granted = grants(&template, function);
        let mut touched: BTreeSet<_> = granted.iter().map(|(_, of)| resource_in(of)).filter(|of| is_kept(of)).map(str::to_owned).collect();
        if PROCESSORS.contains(&name) {
            // The mapping reads it for the function.
            assert!(touched.remove("ReadingStream"), "{name}");
        }
        assert_eq!(touched, named, "{name}");
    }
}

#[test]
fn what_cannot_be_made_anew_outlives_the_stack() {
    let template = load(TEMPLATE);
    for (name, table) in resources_of(&template, TABLE) {
        // A stack that never came to be leaves nothing behind.
        let (deleted, replaced) = if name == "Junctions" { ("Delete", "Delete") } else { ("RetainExceptOnCreate", "Retain") };
        assert_eq!((&table["DeletionPolicy"], &table["UpdateReplacePolicy"]), (&deleted.into(), &replaced.into()), "{name}");
        assert_eq!(table["Properties"]["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"], true, "{name}");
        assert_eq!(table["Properties"]["SSESpecification"]["SSEEnabled"], true, "{name}");
    }
    let quarantine = &template["Resources"]["Quarantine"];
    assert_eq!((&quarantine["DeletionPolicy"], &quarantine["UpdateReplacePolicy"]), (&"RetainExceptOnCreate".into(), &"Retain".into()));
}

#[test]
fn whoever_keeps_the_quarantine_may_do_what_the_runbook_names_and_nothing_else() {
    let template = load(TEMPLATE);
    let policies = resources_of(&template, "AWS::IAM::ManagedPolicy");
    assert_eq!(policies.keys().collect::<Vec<_>>(), [&"QuarantineKeeper"]);
    let statements = policies["QuarantineKeeper"]["Properties"]["PolicyDocument"]["Statement"].as_sequence().unwrap();
    let granted: BTreeSet<_> = statements.iter().flat_map(granted_by).collect();
    let expected = [
        ("kinesis:PutRecords", "ReadingStream.Arn"),
        ("s3:DeleteObject", "${Quarantine.Arn}/*"),
        ("s3:GetObject", "${Quarantine.Arn}/*"),
        ("s3:ListBucket", "Quarantine.Arn"),
        ("s3:PutObject", "${Quarantine.Arn}/replayed/*"),
    ];
    assert_eq!(granted, expected.map(|(action, resource)| (action.to_owned(), resource.to_owned())).into());
    let (_, needed) = RUNBOOK.split_once("\nIt takes ").unwrap();
    let (needed, _) = needed.split_once("`QuarantineKeeperArn`").unwrap();
    let named: BTreeSet<_> = needed.split('`').filter(|word| word.contains(':') && !word.contains(' ')).collect();
    assert_eq!(named, expected.map(|(action, _)| action).into());
}

#[test]
fn the_access_log_tells_who_called_and_is_json() {
    let template = load(TEMPLATE);
    let format = template["Resources"]["Api"]["Properties"]["AccessLogSettings"]["Format"].as_str().unwrap();
    let line: BTreeMap<String, String> = serde_json::from_str(format).unwrap();
    // A signature, a token of the pool, a token of another issuer.
    assert_eq!(line["caller"], "$context.identity.userArn");
    assert_eq!(line["client"], "$context.authorizer.claims.client_id");
    assert_eq!(line["subject"], "$context.authorizer.claims.sub");
}

#[test]
fn each_function_has_a_role_of_its_own_that_names_what_it_may_touch() {
    let template = load(TEMPLATE);
    let mut roles = BTreeSet::new();
    for (name, function) in resources_of(&template, FUNCTION) {
        let role = function["Properties"]["Role"].as_str().unwrap_or_else(|| panic!("{name} has no role"));
        let (role, _) = role.split_once('.').unwrap();
        assert!(roles.insert(role.to_owned()), "{name} shares {role}");
        let properties = &template["Resources"][role]["Properties"];
        assert!(properties.get("ManagedPolicyArns").is_none(), "{role}: managed policies grant more than is named here");
        for (action, resource) in grants(&template, function) {
            assert!(!action.ends_with('*'), "{role}: {action}");
            // X-Ray alone knows no resources.
            assert_eq!(resource == "*", action.starts_with("xray:"), "{role}: {action} on {resource}");
            assert!(!resource.ends_with(":*"), "{role}: {resource}");
        }
    }
    let all: BTreeSet<_> = resources_of(&template, "AWS::IAM::Role").into_keys().map(str::to_owned).collect();
    assert_eq!(roles, all, "a role without a function");
}

const ALARM: &str = "AWS::CloudWatch::Alarm";

#[test]
fn every_function_has_alarms_and_every_alarm_tells_somebody_and_is_in_the_runbook() {
    let template = load(TEMPLATE);
    let alarms = resources_of(&template, ALARM);
    for function in resources_of(&template, FUNCTION).into_keys() {
        assert!(["Errors", "Throttles"].iter().all(|kind| alarms.contains_key(format!("{function}{kind}").as_str())), "{function}");
    }
    for function in PROCESSORS {
        assert!(alarms.contains_key(format!("{function}IteratorAge").as_str()), "{function}");
    }
    for (name, alarm) in alarms {
        let properties = &alarm["Properties"];
        assert_eq!((&properties["AlarmActions"][0], &properties["OKActions"][0]), (&"AlarmTopic".into(), &"AlarmTopic".into()), "{name}");
        let description = properties["AlarmDescription"].as_str().unwrap();
        let (_, section) = description.rsplit_once("Runbook, ").unwrap_or_else(|| panic!("{name} names no section of the runbook"));
        assert!(RUNBOOK.contains(&format!("\n## {}\n", section.trim_end_matches('.'))), "{name}: {section}");
    }
}

#[test]
fn somebody_is_told_when_readings_stop_are_refused_or_miss_junctions() {
    let template = load(TEMPLATE);
    let alarm = |name: &str| &template["Resources"][name]["Properties"];
    // No request, no number: the alarm has to tell of that too, but not before there was a first one.
    let stopped = alarm("ReadingsStopped");
    assert_eq!((&stopped["MetricName"], &stopped["Threshold"]), (&"readings_accepted".into(), &1.into()));
    assert_eq!((&stopped["TreatMissingData"], &stopped["InsufficientDataActions"][0]), (&"missing".into(), &"AlarmTopic".into()));
    let quiet = alarm("JunctionsQuiet");
    assert_eq!((&quiet["MetricName"], &quiet["Threshold"]), (&"junctions_quiet".into(), &"JunctionsQuietMin".into()));
    assert_eq!(template["Parameters"]["JunctionsQuietMin"]["Default"], 1);
    let refused: Vec<_> =
        alarm("Api4xx")["Metrics"].as_sequence().unwrap().iter().map(|of| &of["MetricStat"]["Metric"]["MetricName"]).collect();
    assert!(refused.contains(&&"4xx".into()), "{refused:?}");
}

/// Whether this function emits a metric of this name.
fn emits(function: &str, metric: &str) -> bool {
    let (_, sources) = EMITTED.iter().find(|(name, _)| *name == function).unwrap_or_else(|| panic!("{function} is not known here"));
    let with_telemetry = sources[0].contains("telemetry::start(").then_some(TELEMETRY);
    let name = format!("{metric} =");
    let short = format!(" {metric},");
    sources.iter().copied().chain(with_telemetry).any(|source| source.contains(&name) || source.contains(&short))
}

#[test]
fn alarms_and_dashboard_show_metrics_that_their_function_emits() {
    let template = load(TEMPLATE);
    // Metric and function.
    let mut shown = BTreeSet::new();
    for (_, alarm) in resources_of(&template, ALARM) {
        let single = std::iter::once(&alarm["Properties"]);
        let several = alarm["Properties"]["Metrics"].as_sequence().into_iter().flatten().map(|metric| &metric["MetricStat"]["Metric"]);
        for metric in single.chain(several).filter(|metric| metric["Namespace"] == *"Greenwave") {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            shown.insert((text(&metric["MetricName"]), text(&metric["Dimensions"][0]["Value"])));
        }
    }
    let dashboard = template["Resources"]["Dashboard"]["Properties"]["DashboardBody"].as_str().unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    for widget in dashboard["widgets"].as_array().unwrap() {
        let mut above: Vec<&str> = vec![];
        for metric in widget["properties"]["metrics"].as_array().unwrap() {
            // "." stands for the field above, "..." for all of them up to the last.
            let fields: Vec<_> = metric.as_array().unwrap().iter().filter_map(serde_json::Value::as_str).collect();
            let fields: Vec<_> = match fields.split_first() {
                Some((&"...", last)) => above[..above.len() - last.len()].iter().chain(last).copied().collect(),
                _ => fields.iter().enumerate().map(|(i, field)| if *field == "." { above[i] } else { *field }).collect(),
            };
            if fields[0] == "Greenwave" {
                shown.insert((fields[1].to_owned(), fields[3].trim_matches(['$', '{', '}']).to_owned()));
            }
            above = fields;
        }
    }
    let functions: Vec<_> = resources_of(&template, FUNCTION).into_keys().collect();
    assert!(functions.iter().all(|function| shown.contains(&("cold_starts".to_owned(), (*function).to_owned()))), "{shown:?}");
    assert!(shown.len() > 15, "{shown:?}");
    for (metric, function) in shown {
        assert!(emits(&function, &metric), "{function} does not emit {metric}");
        assert!(RUNBOOK.contains(&format!("`{metric}`")), "the runbook does not explain {metric}");
    }
}

#[test]
fn the_architecture_is_chosen_at_deployment_and_is_x86_by_default() {
    let template = load(TEMPLATE);
    assert_eq!(template["Parameters"]["Architecture"]["Default"], *"x86_64");
    assert_eq!(template["Globals"]["Function"]["Architectures"][0], *"Architecture");
    for (name, function) in resources_of(&template, FUNCTION) {
        assert!(function["Properties"].get("Architectures").is_none(), "{name} has an architecture of its own");
    }
}

#[test]
fn what_is_built_and_what_is_deployed_are_told_the_same_architecture() {
    // A deployment that does not name it keeps that of the stack, whatever was built.
    let recipes = MAKEFILE.lines().filter(|line| line.starts_with('\t'));
    let commands: Vec<_> = recipes.filter(|line| line.contains("sam build") || line.contains("sam deploy")).collect();
    assert_eq!(commands.len(), 2, "{commands:#?}");
    assert!(commands.iter().all(|line| line.ends_with(" --config-env $(ENV) $(OVERRIDES)")), "{commands:#?}");
    assert!(MAKEFILE.contains("\nOVERRIDES = --parameter-overrides Architecture=$(ARCHITECTURE) $(PARAMETERS)\n"));
}

#[test]
fn every_function_is_built_from_the_package_of_its_name() {
    let template = load(TEMPLATE);
    let functions = resources_of(&template, FUNCTION);
    assert!(!functions.is_empty());
    for (name, function) in functions {
        let binary = function["Metadata"]["BuildProperties"]["Binary"].as_str().unwrap();
        let manifest = format!("{}/../functions/{binary}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
        let manifest = std::fs::read_to_string(&manifest).unwrap_or_else(|error| panic!("{name}: {manifest}: {error}"));
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{binary}\"\n")), "{name}: no binary {binary}");
        assert_eq!(binary.replace('-', ""), name.to_lowercase());
        assert_eq!(function["Metadata"]["BuildMethod"], *"rust-cargolambda", "{name}");
    }
}
