use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SCALE: f32 = 125.0;

/// Metrics `a`, which falls from 100 with wear, and `b`; regimes at setting `op` 0 and 10, between which they differ by 50.
fn content() -> Content {
    let normal = |mean| Normal { mean, sd: 2.0, lowest: mean - 40.0, highest: mean + 40.0 };
    let regime = |op: f64, mean| Regime {
        settings: vec![(op - 0.5, op + 0.5)],
        metrics: vec![normal(mean), normal(mean)],
        indices: vec![Index { offset: 0.0, weights: vec![1.0, 0.2] }, Index { offset: 1.0, weights: vec![0.1, -1.0] }],
    };
    let frame = Frame {
        settings: vec!["op".into()],
        metrics: vec!["a".into(), "b".into()],
        regimes: vec![regime(0.0, 100.0), regime(10.0, 150.0)],
        as_new: vec![0.0, 0.0],
        repair: Repair { index: 0, noise: 1.0 },
        life_max: 300,
    };
    let features = life::feature_count(2);
    let split = |feature, threshold, left, right| Node::Split { feature, threshold, left, right };
    let tree = Tree {
        nodes: vec![
            split(3, -4.0, 1, 2),
            Node::Leaf(10.0),
            split(1, -1.0, 3, 4),
            Node::Leaf(60.0),
            split(14, 0.0, 5, 6),
            Node::Leaf(90.0),
            Node::Leaf(125.0),
        ],
    };
    let layer = |inputs: u16, outputs: u16| Layer {
        bias: (0..outputs).map(|at| f32::from(at % 3) * 0.1).collect(),
        weights: (0..inputs * outputs).map(|at| (f32::from(at * 7 % 11) - 5.0) * 0.05).collect(),
    };
    let networks = Networks {
        inputs: vec![(0.0, 0.25); features],
        scale: SCALE,
        networks: vec![Network { layers: vec![layer(25, 4), layer(4, 1)] }, Network { layers: vec![layer(25, 3), layer(3, 1)] }],
    };
    let knot = |at| Knot { at, below: 1.5, above: 1.2 };
    Content {
        kind: "pump".into(),
        unit: "cycles".into(),
        cap: 125.0,
        thresholds: Thresholds { raise: 30.0, clear: 45.0, alarm: 10.0 },
        frame,
        as_new: vec![0.0; features],
        wear: (0.0, -15.0),
        point: Point { forest: Forest { base: 0.0, trees: vec![tree] }, networks },
        band: Band { spread: Forest { base: 8.0, trees: Vec::new() }, spread_min: 0.5, knots: vec![knot(10.0), knot(110.0)] },
    }
}

fn model() -> Model {
    Model::from_bytes(&content().to_bytes().unwrap()).unwrap()
}

fn sample(op: f64, a: f64, b: f64) -> BTreeMap<String, f64> {
    [("op", op), ("a", a), ("b", b)].map(|(name, value)| (name.to_owned(), value)).into()
}

/// A life that wears by `wear` a cycle, through both regimes.
fn lived(model: &Model, cycles: u32, wear: f64) -> Life {
    let mut life = Life::new();
    for cycle in 1..=cycles {
        let (op, mean) = if cycle % 3 == 0 { (10.0, 150.0) } else { (0.0, 100.0) };
        let wobble = f64::from(cycle * 37 % 11) * 0.1 - 0.5;
        life.fold(model, Some(cycle.into()), &sample(op, mean - wear * f64::from(cycle) + wobble, mean));
    }
    life
}

fn unknown(model: &Model, life: &Life) -> (String, String) {
    match model.assess(life) {
        Assessment::Unknown { indicator, text } => (indicator, text),
        Assessment::Known(prognosis) => panic!("{prognosis:?}"),
    }
}

fn known(model: &Model, life: &Life) -> Prognosis {
    match model.assess(life) {
        Assessment::Known(prognosis) => prognosis,
        Assessment::Unknown { indicator, text } => panic!("{indicator}: {text}"),
    }
}

#[test]
fn a_model_file_reads_back_as_it_was_written() {
    let (content, model) = (content(), model());
    assert_eq!(*model.content(), content);
    assert_eq!(model.version(), Model::from_bytes(&content.to_bytes().unwrap()).unwrap().version());
    let mut other = content.clone();
    other.cap = 126.0;
    assert_ne!(Model::from_bytes(&other.to_bytes().unwrap()).unwrap().version(), model.version());
}

#[test]
fn a_model_of_another_format_is_refused() {
    assert_eq!(Model::from_bytes(b"greenwave model 2\n"), Err(ModelError::Format));
    assert_eq!(Model::from_bytes(b""), Err(ModelError::Format));
    assert_eq!(Model::from_bytes(MAGIC), Err(ModelError::Damaged));
    assert_eq!(Model::from_bytes(&vec![0; MODEL_MAX_LEN + 1]), Err(ModelError::TooLarge(MODEL_MAX_LEN + 1)));
}

#[test]
fn a_model_that_contradicts_itself_is_refused() {
    let spoilt: [fn(&mut Content); 8] = [
        |content| content.thresholds.clear = 20.0,
        |content| content.cap = f64::NAN,
        |content| content.as_new.truncate(3),
        |content| content.frame.regimes[0].metrics[0].sd = 0.0,
        |content| content.frame.repair.index = 2,
        |content| content.point.forest.trees[0].nodes[2] = Node::Split { feature: 1, threshold: 0.0, left: 2, right: 4 },
        |content| content.point.networks.networks[0].layers[0].bias.truncate(1),
        |content| content.band.knots.clear(),
    ];
    for spoil in spoilt {
        let mut content = content();
        spoil(&mut content);
        assert!(matches!(content.to_bytes(), Err(ModelError::Invalid(_))));
    }
}

#[test]
fn wear_shortens_the_life_that_is_left_and_is_the_reason() {
    let model = model();
    let (new, worn) = (known(&model, &lived(&model, 60, 0.0)), known(&model, &lived(&model, 60, 0.5)));
    assert!(worn.remaining_useful_life.p50 < new.remaining_useful_life.p50 - 20.0, "{new:?} {worn:?}");
    assert!(worn.health_index < new.health_index);
    assert_eq!((worn.reasons[0].indicator.as_str(), worn.reasons[0].contribution < 0.0), ("a", true));
    assert!(
        worn.reasons[0].text.starts_with("a is ") && worn.reasons[0].text.contains("below where it started"),
        "{}",
        worn.reasons[0].text
    );
}

#[test]
fn contributions_sum_to_the_difference_from_a_machine_as_new() {
    let model = model();
    let features = lived(&model, 60, 0.4).features();
    let Content { point, as_new, .. } = model.content();
    let whole = point.predict(&features) - point.predict(as_new);
    assert!((point.explain(&features, as_new).iter().sum::<f64>() - whole).abs() < 1e-3);
}

#[test]
fn contributions_of_trees_are_shapley_values() {
    let forest = content().point.forest;
    let mut here = vec![0.0; 25];
    (here[1], here[3], here[14]) = (-2.0, -1.0, -1.0);
    let there = vec![0.0; 25];
    let mut found = vec![0.0; 25];
    forest.explain(&here, &there, 1.0, &mut found);
    // By the definition: the mean over all orders of what a feature changes when it changes last so far.
    let orders = [[1, 3, 14], [1, 14, 3], [3, 1, 14], [3, 14, 1], [14, 1, 3], [14, 3, 1]];
    let mut expected = vec![0.0; 25];
    for order in orders {
        let mut point = there.clone();
        for feature in order {
            let before = forest.predict(&point);
            point[feature] = here[feature];
            expected[feature] += (forest.predict(&point) - before) / 6.0;
        }
    }
    assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-9), "{found:?} {expected:?}");
}

#[test]
fn nothing_is_said_before_the_model_knows_enough() {
    let model = model();
    assert_eq!(unknown(&model, &Life::new()).0, "samples");
    assert_eq!(unknown(&model, &lived(&model, 4, 0.0)).1, "4 of the 5 samples that are needed have come.");
    known(&model, &lived(&model, 5, 0.0));
}

#[test]
fn a_machine_outside_what_the_model_knows_gets_no_number() {
    let model = model();
    let with = |change: &dyn Fn(&mut BTreeMap<String, f64>)| {
        let (mut life, mut newest) = (lived(&model, 20, 0.0), sample(0.0, 100.0, 100.0));
        change(&mut newest);
        life.fold(&model, Some(21), &newest);
        unknown(&model, &life)
    };
    assert_eq!(
        with(&|sample| {
            sample.remove("op");
        })
        .1,
        "The newest sample lacks op, which tells how the machine is operated."
    );
    assert_eq!(
        with(&|sample| {
            sample.insert("op".into(), 5.0);
        })
        .0,
        "op"
    );
    assert_eq!(
        with(&|sample| {
            sample.insert("op".into(), f64::NAN);
        })
        .0,
        "op"
    );
    let (indicator, text) = with(&|sample| {
        sample.insert("a".into(), 141.0);
    });
    assert_eq!((indicator.as_str(), text.as_str()), ("a", "a is 141 in the newest sample; the model knows 60.0000 to 140.0000 there."));

    let mut late = Life::new();
    for cycle in 500..520 {
        late.fold(&model, Some(cycle), &sample(0.0, 100.0, 100.0));
    }
    assert!(unknown(&model, &late).1.starts_with("The machine was first met at cycle 500"));
    let mut old = lived(&model, 20, 0.0);
    old.fold(&model, Some(601), &sample(0.0, 100.0, 100.0));
    known(&model, &old);
    old.fold(&model, Some(602), &sample(0.0, 100.0, 100.0));
    assert_eq!(unknown(&model, &old).0, "cycle");
    let mut never = Life::new();
    for cycle in 1..20 {
        never.fold(&model, Some(cycle), &[("op".to_owned(), 0.0), ("a".to_owned(), 100.0)].into());
    }
    assert_eq!(unknown(&model, &never), ("b".into(), "The samples lack b, which the model needs.".into()));
}

#[test]
fn a_metric_that_is_missing_for_a_while_is_taken_at_its_average() {
    let model = model();
    let mut life = lived(&model, 40, 0.1);
    let lacking: BTreeMap<_, _> = [("op".to_owned(), 0.0), ("a".to_owned(), 96.0)].into();
    for cycle in 41..=45 {
        life.fold(&model, Some(cycle), &lacking);
        known(&model, &life);
    }
    life.fold(&model, Some(46), &lacking);
    assert_eq!(unknown(&model, &life).0, "b");
    life.fold(&model, Some(47), &sample(0.0, 96.0, 100.0));
    known(&model, &life);
}

#[test]
fn a_lower_cycle_begins_a_new_life_if_the_next_one_goes_on_from_it() {
    let model = model();
    let (mut life, mut new) = (lived(&model, 60, 0.5), Life::new());
    for cycle in 1..=20 {
        life.fold(&model, Some(cycle), &sample(0.0, 100.0, 100.0));
    }
    for cycle in 2..=20 {
        new.fold(&model, Some(cycle), &sample(0.0, 100.0, 100.0));
    }
    assert_eq!(life, new);
}

#[test]
fn one_odd_cycle_changes_nothing() {
    let model = model();
    for cycle in [0, 30, 60, 5_000, u64::MAX] {
        let (mut straight, mut odd) = (lived(&model, 60, 0.5), lived(&model, 60, 0.5));
        assert!(!odd.fold(&model, Some(cycle), &sample(0.0, 100.0, 100.0)), "{cycle}");
        for life in [&mut straight, &mut odd] {
            life.fold(&model, Some(61), &sample(0.0, 95.0, 95.0));
        }
        assert_eq!(straight, odd, "{cycle}");
    }
}

#[test]
fn samples_without_a_cycle_are_counted() {
    let model = model();
    let (mut counted, mut told) = (Life::new(), Life::new());
    for cycle in 1..=30 {
        counted.fold(&model, None, &sample(0.0, 99.0, 100.0));
        told.fold(&model, Some(cycle), &sample(0.0, 99.0, 100.0));
    }
    assert_eq!(counted, told);
}

#[test]
fn the_slope_of_a_straight_line_is_exact_also_with_gaps() {
    let model = model();
    let mut life = Life::new();
    for cycle in [1, 2, 3, 5, 8, 9, 10, 14, 15, 16, 17, 21, 22, 23, 24_u32] {
        life.fold(&model, Some(cycle.into()), &sample(0.0, 100.0 - 0.2 * f64::from(cycle), 100.0));
    }
    // Per 100 cycles, in standard deviations of 2: -10. The slopes stand behind the age, four levels and four distances.
    for slope in &life.features()[9..12] {
        assert!((slope + 10.0).abs() < 1e-2, "{slope}");
    }
}

#[test]
fn after_a_repair_the_averages_begin_anew_and_the_start_stays() {
    let model = model();
    let mut life = lived(&model, 60, 0.5);
    let worn = life.index_average(0);
    for cycle in 61..=64 {
        life.fold(&model, Some(cycle), &sample(0.0, 100.0, 100.0));
    }
    assert!(worn < -10.0 && life.index_average(0) > -0.5, "{worn} {}", life.index_average(0));
    let features = life.features();
    assert!((features[0] - 64.0).abs() < f32::EPSILON);
    assert!(features[12] < -0.5, "the start of the life: {}", features[12]);
}

#[test]
fn one_odd_sample_is_no_repair() {
    let model = model();
    let (mut life, mut plain) = (lived(&model, 60, 0.5), lived(&model, 60, 0.5));
    life.fold(&model, Some(61), &sample(0.0, 120.0, 100.0));
    plain.fold(&model, Some(61), &sample(0.0, 69.5, 100.0));
    for cycle in 62..=66_u32 {
        for life in [&mut life, &mut plain] {
            life.fold(&model, Some(cycle.into()), &sample(0.0, 100.0 - 0.5 * f64::from(cycle), 100.0));
        }
    }
    assert!(!life.begins_anew() && life.index_average(0) < plain.index_average(0) + 2.0);
}

#[test]
fn the_state_of_the_richest_machine_is_below_a_kilobyte() {
    let mut content = content();
    content.frame.metrics = (0..METRICS_MAX).map(|at| format!("m{at}")).collect();
    content.frame.as_new = vec![0.0; METRICS_MAX];
    for regime in &mut content.frame.regimes {
        regime.metrics = vec![regime.metrics[0]; METRICS_MAX];
        regime.indices = vec![Index { offset: 0.0, weights: vec![0.1; METRICS_MAX] }; INDICES_MAX];
    }
    let mut life = Life::new();
    let metrics: BTreeMap<String, f64> =
        content.frame.metrics.iter().map(|name| (name.clone(), 101.0)).chain([("op".to_owned(), 0.0)]).collect();
    for at in 1..=100 {
        life.follow(&content.frame, Some(u64::MAX / 2 + at), &metrics);
    }
    life.follow(&content.frame, Some(u64::MAX - 1), &BTreeMap::new());
    let bytes = postcard::to_stdvec(&life).unwrap();
    assert!(bytes.len() <= 1024, "{}", bytes.len());
    assert_eq!(postcard::from_bytes::<Life>(&bytes).unwrap(), life);
}

#[test]
fn the_shipped_model_is_one() {
    let kind = crate::ids::AssetKind::try_from("turbofan").unwrap();
    let model = Model::from_bytes(shipped(&kind).unwrap()).unwrap();
    assert_eq!(model.version().name, "turbofan");
    assert_eq!(model.content().frame.regimes.len(), 6);
    assert!(shipped(&crate::ids::AssetKind::try_from("pump").unwrap()).is_none());
}

/// Any number that JSON can hold, and what it cannot.
fn number() -> impl Strategy<Value = f64> {
    prop_oneof![4 => 60.0..140.0, 1 => any::<f64>(), 1 => Just(f64::NAN), 1 => Just(f64::INFINITY)]
}

fn samples() -> impl Strategy<Value = Vec<(u64, BTreeMap<String, f64>)>> {
    let step =
        (prop_oneof![9 => 1..4_u64, 1 => 1..2000_u64], prop_oneof![4 => Just(0.0), 2 => Just(10.0), 1 => number()], number(), number());
    prop::collection::vec(step, 1..80).prop_map(|steps| {
        let mut cycle = 0;
        steps
            .into_iter()
            .map(|(step, op, a, b)| {
                cycle += step;
                (cycle, sample(op, a, b))
            })
            .collect()
    })
}

/// Ten samples of a new life with which nothing is wrong.
fn well(model: &Model, life: &mut Life, from: u64) {
    for cycle in from..from + 10 {
        life.fold(model, Some(cycle), &sample(0.0, 99.0, 101.0));
    }
}

proptest! {
    #[test]
    fn a_damaged_model_is_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut bytes = content().to_bytes().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(matches!(Model::from_bytes(&bytes), Err(ModelError::Damaged | ModelError::Format)));
    }

    #[test]
    fn a_sample_seen_twice_changes_nothing(samples in samples()) {
        let model = model();
        let (mut once, mut twice) = (Life::new(), Life::new());
        for (cycle, metrics) in &samples {
            once.fold(&model, Some(*cycle), metrics);
            twice.fold(&model, Some(*cycle), metrics);
            let bytes = postcard::to_stdvec(&twice).unwrap();
            twice.fold(&model, Some(*cycle), metrics);
            prop_assert_eq!(postcard::to_stdvec(&twice).unwrap(), bytes);
        }
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn whatever_comes_nothing_is_poisoned(samples in samples()) {
        let model = model();
        let mut life = Life::new();
        for (cycle, metrics) in &samples {
            life.fold(&model, Some(*cycle), metrics);
            prop_assert!(life.features().iter().all(|feature| feature.is_finite()));
            if let Assessment::Known(prognosis) = model.assess(&life) {
                let RemainingUsefulLife { p05, p50, p95, .. } = prognosis.remaining_useful_life;
                prop_assert!(0.0 <= p05 && p05 <= p50 && p50 <= p95 && p95 <= 125.0, "{p05} {p50} {p95}");
                prop_assert!(prognosis.health_index <= 100 && prognosis.reasons.len() <= REASONS_MAX);
                prop_assert!(prognosis.reasons.is_sorted_by(|a, b| a.contribution.abs() >= b.contribution.abs()));
            }
        }
        well(&model, &mut life, 1);
        known(&model, &life);
    }

    #[test]
    fn a_sample_that_cannot_be_judged_is_as_if_it_had_not_come(at in 10..40_u64, odd in prop_oneof![Just(f64::NAN), Just(1e300), Just(-500.0)]) {
        let model = model();
        let (mut with, mut without) = (Life::new(), Life::new());
        for cycle in 1..=50 {
            let fine = sample(0.0, 100.0 - 0.1 * f64::from(u32::try_from(cycle).unwrap()), 100.0);
            if cycle == at {
                with.fold(&model, Some(cycle), &sample(odd, 100.0, 100.0));
            } else {
                with.fold(&model, Some(cycle), &fine);
                without.fold(&model, Some(cycle), &fine);
            }
        }
        prop_assert_eq!(with, without);
    }

    #[test]
    fn a_state_that_was_stored_goes_on_as_if_it_had_not_been(samples in samples()) {
        let model = model();
        let (mut kept, mut stored) = (Life::new(), Life::new());
        for (cycle, metrics) in &samples {
            kept.fold(&model, Some(*cycle), metrics);
            stored = postcard::from_bytes(&postcard::to_stdvec(&stored).unwrap()).unwrap();
            stored.fold(&model, Some(*cycle), metrics);
        }
        prop_assert_eq!(model.assess(&kept), model.assess(&stored));
        prop_assert_eq!(kept, stored);
    }
}
