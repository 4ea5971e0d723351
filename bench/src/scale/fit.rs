//! Least squares: what each of several parts costs, where only sums of them can be measured.

/// The costs that come nearest to all rows: how much of each part there was, and what it took together. Nearest by
/// ratio, so that small rows count as much as large ones. None is below zero: where that would fit best, the part costs
/// nothing. `None` if the rows do not tell the parts apart.
pub(super) fn solve(rows: &[(Vec<f64>, f64)]) -> Option<Vec<f64>> {
    let count = rows.first()?.0.len();
    let mut is_zero = vec![false; count];
    loop {
        let parts: Vec<usize> = (0..count).filter(|part| !is_zero[*part]).collect();
        let solution = unbounded(rows, &parts)?;
        let mut costs = vec![0.0; count];
        parts.iter().zip(&solution).for_each(|(part, cost)| costs[*part] = *cost);
        let lowest = (0..count).min_by(|one, other| costs[*one].total_cmp(&costs[*other]))?;
        if costs[lowest] >= 0.0 {
            return Some(costs);
        }
        is_zero[lowest] = true;
    }
}

/// By how much the row that fits worst is off, as a ratio of what it took.
pub(super) fn worst(rows: &[(Vec<f64>, f64)], costs: &[f64]) -> f64 {
    let off = rows.iter().map(|(parts, took)| {
        let expected: f64 = parts.iter().zip(costs).map(|(part, cost)| part * cost).sum();
        (expected / took - 1.0).abs()
    });
    off.fold(0.0, f64::max)
}

/// By the normal equations, with Gaussian elimination.
fn unbounded(rows: &[(Vec<f64>, f64)], parts: &[usize]) -> Option<Vec<f64>> {
    let size = parts.len();
    let mut equations = vec![vec![0.0; size + 1]; size];
    for (row, took) in rows {
        for (line, part) in parts.iter().enumerate() {
            let weight = row[*part] / (took * took);
            parts.iter().enumerate().for_each(|(column, other)| equations[line][column] += weight * row[*other]);
            equations[line][size] += weight * took;
        }
    }
    for pivot in 0..size {
        let best = (pivot..size)
            .max_by(|one, other| equations[*one][pivot].abs().total_cmp(&equations[*other][pivot].abs()))?;
        equations.swap(pivot, best);
        if equations[pivot][pivot].abs() < f64::MIN_POSITIVE {
            return None;
        }
        for line in (0..size).filter(|line| *line != pivot) {
            let pivotal = equations[pivot].clone();
            let factor = equations[line][pivot] / pivotal[pivot];
            equations[line].iter_mut().zip(pivotal).for_each(|(value, other)| *value -= factor * other);
        }
    }
    Some((0..size).map(|line| equations[line][size] / equations[line][line]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_told_apart_and_none_costs_less_than_nothing() {
        let row = |one: f64, other: f64| (vec![one, other], 3.0 * one + 0.5 * other);
        let rows = [row(1.0, 1.0), row(100.0, 1.0), row(1.0, 1000.0)];
        let costs = solve(&rows).unwrap();
        assert!((costs[0] - 3.0).abs() < 1e-9 && (costs[1] - 0.5).abs() < 1e-9, "{costs:?}");
        assert!(worst(&rows, &costs) < 1e-9 && worst(&rows, &[3.0, 1.0]) > 0.4);
        let costs = solve(&[(vec![1.0, 1.0], 1.0), (vec![1.0, 2.0], 0.5)]).unwrap();
        assert!(costs[0] > 0.0 && costs[1] == 0.0, "{costs:?}");
        assert_eq!(solve(&[(vec![0.0], 1.0)]), None);
    }
}
