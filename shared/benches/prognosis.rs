//! What a verdict costs with the model that ships: loading 5 ms and scoring 0.1 ms at most is the goal.

#![expect(missing_docs, reason = "criterion makes a public function")]

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use shared::ids::AssetKind;
use shared::prognosis::{Life, Model, shipped};

fn benches(criterion: &mut Criterion) {
    let bytes = AssetKind::try_from("turbofan").ok().as_ref().and_then(shipped).unwrap_or_default();
    let Ok(model) = Model::from_bytes(bytes) else { return };
    let frame = &model.content().frame;
    let Some(regime) = frame.regimes.first() else { return };
    // An engine that ends far from where it began: reasons cost most where every split differs from new.
    let sample = |worn: f64| -> BTreeMap<String, f64> {
        let settings = frame.settings.iter().zip(&regime.settings).map(|(name, (low, high))| (name.clone(), (low + high) / 2.0));
        let towards_end = |metric: &str| if ["s7", "s12", "s20", "s21"].contains(&metric) { -1.0 } else { 1.0 };
        let metrics = frame
            .metrics
            .iter()
            .zip(&regime.metrics)
            .map(|(name, normal)| (name.clone(), normal.mean + 2.0 * worn * towards_end(name) * normal.sd));
        settings.chain(metrics).collect()
    };
    let mut life = Life::new();
    for cycle in 1..=200_u32 {
        life.fold(&model, Some(cycle.into()), &sample(f64::from(cycle) / 200.0));
    }
    let features = life.features();
    let newest = sample(1.0);
    criterion.bench_function("load", |b| b.iter(|| Model::from_bytes(black_box(bytes))));
    criterion.bench_function("fold one sample", |b| {
        let mut cycle = 200;
        b.iter(|| {
            cycle += 1;
            life.fold(&model, Some(cycle), black_box(&newest));
        });
    });
    criterion.bench_function("features and quantiles", |b| b.iter(|| model.content().quantiles(black_box(&features))));
    let mut worn = Life::new();
    for cycle in 1..=200_u32 {
        worn.fold(&model, Some(cycle.into()), &sample(f64::from(cycle) / 200.0));
    }
    criterion.bench_function("verdict with reasons", |b| b.iter(|| model.assess(black_box(&worn))));
}

criterion_group!(all, benches);
criterion_main!(all);
