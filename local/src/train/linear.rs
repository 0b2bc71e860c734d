//! The little linear algebra that training needs, on symmetric matrices by rows.

#![expect(clippy::indexing_slicing, clippy::needless_range_loop, reason = "every matrix has the size of its right-hand side")]

/// A square matrix by rows.
pub(super) type Matrix = Vec<Vec<f64>>;

/// Zeros.
pub(super) fn zeros(size: usize) -> Matrix {
    vec![vec![0.0; size]; size]
}

/// Adds `weight * v v'`.
pub(super) fn add_outer(matrix: &mut Matrix, v: &[f64], weight: f64) {
    for (row, a) in matrix.iter_mut().zip(v) {
        for (cell, b) in row.iter_mut().zip(v) {
            *cell += weight * a * b;
        }
    }
}

/// Lower factor of a positive definite matrix.
fn cholesky(matrix: &Matrix) -> Matrix {
    let size = matrix.len();
    let mut lower = zeros(size);
    for i in 0..size {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| lower[i][k] * lower[j][k]).sum();
            lower[i][j] = if i == j { (matrix[i][i] - sum).max(f64::MIN_POSITIVE).sqrt() } else { (matrix[i][j] - sum) / lower[j][j] };
        }
    }
    lower
}

/// `lower x = b`.
fn forward(lower: &Matrix, b: &[f64]) -> Vec<f64> {
    let mut x = vec![0.0; b.len()];
    for i in 0..b.len() {
        let sum: f64 = (0..i).map(|k| lower[i][k] * x[k]).sum();
        x[i] = (b[i] - sum) / lower[i][i];
    }
    x
}

/// `lower' x = b`.
fn backward(lower: &Matrix, b: &[f64]) -> Vec<f64> {
    let mut x = vec![0.0; b.len()];
    for i in (0..b.len()).rev() {
        let sum: f64 = (i + 1..b.len()).map(|k| lower[k][i] * x[k]).sum();
        x[i] = (b[i] - sum) / lower[i][i];
    }
    x
}

/// `matrix x = b` for a positive definite matrix.
pub(super) fn solve(matrix: &Matrix, b: &[f64]) -> Vec<f64> {
    let lower = cholesky(matrix);
    backward(&lower, &forward(&lower, b))
}

/// The directions `v` in which `v' signal v` is largest while `v' noise v` is 1, largest first; the largest part of each is
/// positive. `noise` is positive definite.
pub(super) fn directions(signal: &Matrix, noise: &Matrix) -> Vec<Vec<f64>> {
    let lower = cholesky(noise);
    let half: Matrix = signal.iter().map(|row| forward(&lower, row)).collect();
    let white: Matrix = (0..half.len()).map(|i| forward(&lower, &half.iter().map(|row| row[i]).collect::<Vec<_>>())).collect();
    let mut found: Vec<(f64, Vec<f64>)> = eigen(white).into_iter().map(|(value, vector)| (value, backward(&lower, &vector))).collect();
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, vector)| towards_plus(vector)).collect()
}

fn towards_plus(mut vector: Vec<f64>) -> Vec<f64> {
    let largest = vector.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default();
    if largest < 0.0 {
        for part in &mut vector {
            *part = -*part;
        }
    }
    vector
}

/// Eigenvalues and vectors of a symmetric matrix (cyclic Jacobi rotations).
fn eigen(mut a: Matrix) -> Vec<(f64, Vec<f64>)> {
    let size = a.len();
    let mut vectors = zeros(size);
    (0..size).for_each(|i| vectors[i][i] = 1.0);
    for _ in 0..100 {
        let off: f64 = (0..size).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        let diagonal: f64 = (0..size).map(|i| a[i][i] * a[i][i]).sum();
        if off <= 1e-24 * diagonal {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                for k in 0..size {
                    (a[p][k], a[q][k]) = (c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]);
                }
                for row in &mut vectors {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
            }
        }
    }
    (0..size).map(|i| (a[i][i], vectors.iter().map(|row| row[i]).collect())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solution_solves() {
        let matrix = vec![vec![4.0, 1.0, 0.5], vec![1.0, 3.0, 0.2], vec![0.5, 0.2, 2.0]];
        let x = solve(&matrix, &[1.0, -2.0, 3.0]);
        for (row, b) in matrix.iter().zip([1.0, -2.0, 3.0]) {
            assert!((row.iter().zip(&x).map(|(a, x)| a * x).sum::<f64>() - b).abs() < 1e-12);
        }
    }

    #[test]
    fn the_first_direction_is_the_one_with_most_signal_for_its_noise() {
        let signal = vec![vec![9.0, 0.0], vec![0.0, 4.0]];
        let noise = vec![vec![9.0, 0.0], vec![0.0, 1.0]];
        let found = directions(&signal, &noise);
        assert!(found[0][0].abs() < 1e-9 && (found[0][1] - 1.0).abs() < 1e-9, "{found:?}");
        assert!((found[1][0] - 1.0 / 3.0).abs() < 1e-9 && found[1][1].abs() < 1e-9, "{found:?}");
    }
}
