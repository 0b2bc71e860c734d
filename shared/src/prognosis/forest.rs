//! Gradient-boosted trees: their sum, and exact Shapley values against a reference.

use serde::{Deserialize, Serialize};

use super::ModelError;

/// Deepest tree.
const DEPTH_MAX: u32 = 16;

/// A sum of regression trees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Forest {
    /// What is predicted without trees.
    pub base: f32,
    /// The trees.
    pub trees: Vec<Tree>,
}

/// A regression tree; the root is the first node, and children stand behind their parent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tree {
    /// The nodes.
    pub nodes: Vec<Node>,
}

/// A node of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Node {
    /// Values of the feature below the threshold go to the left.
    Split {
        /// Which feature.
        feature: u8,
        /// Where.
        threshold: f32,
        /// Node for values below.
        left: u16,
        /// Node for the others.
        right: u16,
    },
    /// What the tree adds.
    Leaf(f32),
}

impl Forest {
    /// The prediction.
    pub fn predict(&self, features: &[f32]) -> f64 {
        self.trees.iter().map(|tree| f64::from(tree.predict(features))).sum::<f64>() + f64::from(self.base)
    }

    /// Adds to each feature its Shapley value times `scale`: what it contributes to the difference between the prediction
    /// for `features` and that for `reference`. The contributions sum to that difference.
    ///
    /// Source: Lundberg et al., From local explanations to global understanding (2020), interventional Tree SHAP with one
    /// reference: per leaf, the features that must be taken from `features` share its value equally, and so do the others.
    pub fn explain(&self, features: &[f32], reference: &[f32], scale: f64, contributions: &mut [f64]) {
        let mut path = Path { sides: vec![Side::Either; features.len()], decided: Vec::new(), taken: 0, left_out: 0, weights: weights() };
        for tree in &self.trees {
            tree.explain(0, (features, reference), scale, &mut path, contributions);
        }
    }

    /// Refuses trees that do not end, or look for features that are not there.
    pub(super) fn check(&self, features: usize) -> Result<(), ModelError> {
        let sound = |tree: &Tree| {
            let mut depths = vec![0_u32; tree.nodes.len()];
            for (at, node) in tree.nodes.iter().enumerate() {
                match node {
                    Node::Leaf(value) if !value.is_finite() => return false,
                    Node::Leaf(_) => {}
                    Node::Split { feature, threshold, left, right } => {
                        let depth = depths.get(at).map_or(0, |depth| depth + 1);
                        let children = [*left, *right].map(usize::from);
                        if usize::from(*feature) >= features
                            || !threshold.is_finite()
                            || depth > DEPTH_MAX
                            || children.iter().any(|child| *child <= at)
                        {
                            return false;
                        }
                        for child in children {
                            let Some(known) = depths.get_mut(child) else { return false };
                            *known = depth.max(*known);
                        }
                    }
                }
            }
            !tree.nodes.is_empty()
        };
        if self.base.is_finite() && self.trees.iter().all(sound) { Ok(()) } else { Err(ModelError::Invalid("a tree contradicts itself")) }
    }
}

/// Where the features on a path through a tree come from.
struct Path {
    sides: Vec<Side>,
    /// Those that have a side.
    decided: Vec<usize>,
    taken: usize,
    left_out: usize,
    /// `n! m! / (n + m + 1)!` by n and m: the share of a feature when n others are on its side and m on the other.
    weights: Vec<Vec<f64>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Either,
    /// From the machine.
    Taken,
    /// From the reference.
    LeftOut,
}

impl Tree {
    fn predict(&self, features: &[f32]) -> f32 {
        let mut at = 0;
        loop {
            match self.nodes.get(at) {
                Some(Node::Split { feature, threshold, left, right }) => {
                    let below = features.get(usize::from(*feature)).is_some_and(|value| value < threshold);
                    at = usize::from(if below { *left } else { *right });
                }
                Some(Node::Leaf(value)) => return *value,
                None => return 0.0,
            }
        }
    }

    fn explain(&self, at: usize, points: (&[f32], &[f32]), scale: f64, path: &mut Path, contributions: &mut [f64]) {
        match self.nodes.get(at) {
            Some(Node::Split { feature, threshold, left, right }) => {
                let feature = usize::from(*feature);
                let next =
                    |point: &[f32]| usize::from(if point.get(feature).is_some_and(|value| value < threshold) { *left } else { *right });
                let (taken, left_out) = (next(points.0), next(points.1));
                let side = path.sides.get(feature).copied().unwrap_or(Side::Either);
                if taken == left_out || side == Side::Taken {
                    self.explain(taken, points, scale, path, contributions);
                } else if side == Side::LeftOut {
                    self.explain(left_out, points, scale, path, contributions);
                } else {
                    path.decided.push(feature);
                    path.set(feature, Side::Taken);
                    path.taken += 1;
                    self.explain(taken, points, scale, path, contributions);
                    path.taken -= 1;
                    path.set(feature, Side::LeftOut);
                    path.left_out += 1;
                    self.explain(left_out, points, scale, path, contributions);
                    path.left_out -= 1;
                    path.set(feature, Side::Either);
                    path.decided.pop();
                }
            }
            Some(Node::Leaf(value)) if path.taken + path.left_out > 0 => {
                let (per_taken, per_left_out) = path.shares();
                let value = scale * f64::from(*value);
                for feature in &path.decided {
                    let (Some(side), Some(contribution)) = (path.sides.get(*feature), contributions.get_mut(*feature)) else { continue };
                    *contribution += if *side == Side::Taken { value * per_taken } else { -value * per_left_out };
                }
            }
            Some(Node::Leaf(_)) | None => {}
        }
    }
}

impl Path {
    /// Shapley weights of a leaf that needs `t` features from one side and `l` from the other: `(t-1)! l! / (t+l)!` and
    /// `t! (l-1)! / (t+l)!`.
    fn shares(&self) -> (f64, f64) {
        let weight = |of: usize, others: usize| self.weights.get(of.checked_sub(1)?)?.get(others).copied();
        (weight(self.taken, self.left_out).unwrap_or_default(), weight(self.left_out, self.taken).unwrap_or_default())
    }

    fn set(&mut self, feature: usize, to: Side) {
        if let Some(side) = self.sides.get_mut(feature) {
            *side = to;
        }
    }
}

fn weights() -> Vec<Vec<f64>> {
    let row = |n: u32| {
        // 1 / ((n + m + 1) C(n + m, m))
        let next = |weight: &mut f64, m: u32| {
            let now = *weight;
            *weight *= f64::from(m + 1) / f64::from(n + m + 2);
            Some(now)
        };
        (0..DEPTH_MAX).scan(1.0 / f64::from(n + 1), next).collect()
    };
    (0..DEPTH_MAX).map(row).collect()
}
