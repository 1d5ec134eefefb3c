//! The order of a batch by its dependencies: Kahn's algorithm (SPEC 4.5).

/// Why there is no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the dependencies form a cycle")]
pub struct Cycle {
    /// The nodes of one cycle in order; the first stands again at the end.
    pub path: Vec<usize>,
}

/// An order of the nodes `0..edges.len()` in which each comes after those that it depends on
/// (`edges[n]`). Among nodes that could come next the lowest comes first, so that the same input has one
/// order.
pub fn sort(edges: &[Vec<usize>]) -> Result<Vec<usize>, Cycle> {
    let mut open: Vec<usize> = edges.iter().map(Vec::len).collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    for (node, on) in edges.iter().enumerate() {
        for prerequisite in on {
            if let Some(list) = dependents.get_mut(*prerequisite) {
                list.push(node);
            }
        }
    }
    let mut ready: std::collections::BTreeSet<usize> =
        open.iter().enumerate().filter(|(_, n)| **n == 0).map(|(i, _)| i).collect();
    let mut order = Vec::with_capacity(edges.len());
    while let Some(node) = ready.pop_first() {
        order.push(node);
        for dependent in dependents.get(node).into_iter().flatten() {
            let Some(count) = open.get_mut(*dependent) else { continue };
            *count -= 1;
            if *count == 0 {
                ready.insert(*dependent);
            }
        }
    }
    if order.len() == edges.len() { Ok(order) } else { Err(Cycle { path: cycle(edges, &open) }) }
}

/// Walks from a node that was never ready to its unready prerequisites until one comes again.
fn cycle(edges: &[Vec<usize>], open: &[usize]) -> Vec<usize> {
    let unready = |n: &usize| open.get(*n).is_some_and(|c| *c > 0);
    let Some(start) = (0..edges.len()).find(|n| unready(n)) else { return Vec::new() };
    let mut path = vec![start];
    loop {
        let last = path.last().copied().unwrap_or(start);
        let Some(next) = edges.get(last).and_then(|on| on.iter().find(|n| unready(n)).copied()) else { return path };
        if let Some(from) = path.iter().position(|n| *n == next) {
            let mut found = path.split_off(from);
            found.push(next);
            return found;
        }
        path.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prerequisites_come_first() {
        assert_eq!(sort(&[vec![1], vec![], vec![0, 1]]), Ok(vec![1, 0, 2]));
        assert_eq!(sort(&[]), Ok(vec![]));
    }

    #[test]
    fn a_cycle_is_named_by_its_path() {
        let found = sort(&[vec![], vec![2], vec![3], vec![1], vec![1]]).expect_err("cycle");
        assert_eq!(found.path.first(), found.path.last());
        assert_eq!(found.path.len(), 4);
        assert_eq!(sort(&[vec![0]]).expect_err("self").path, vec![0, 0]);
    }
}
