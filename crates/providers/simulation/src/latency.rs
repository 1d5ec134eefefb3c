//! How long things take: models of latency, as data in a cluster's settings.

use provisor_core::check::{Flaws, Object, number_of};
use provisor_core::{Chance, Span};
use serde_json::Value;

/// Longest latency that can be asked for.
const MAX_MS: f64 = 86_400_000.0;

/// What an operation takes where nothing is said.
pub(crate) const DEFAULT: Model = Model::Fixed(20.0);

/// A distribution, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Model {
    /// Always the same.
    Fixed(f64),
    /// Any number between two, all as likely.
    Uniform(f64, f64),
    /// Log-normal by its median and its 99th percentile: the usual shape of waiting.
    Lognormal {
        /// Median.
        p50: f64,
        /// 99th percentile.
        p99: f64,
    },
    /// Recorded quantiles (percent, value), straight lines between them.
    Quantiles(Vec<(f64, f64)>),
}

impl Model {
    /// Reads one model that stands at `pointer`.
    pub(crate) fn read(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Self> {
        let mut o = Object::new(pointer, value, flaws);
        let fixed = o.number("fixed_ms", 0.0, MAX_MS, flaws).map(Self::Fixed);
        let uniform = o.raw("uniform_ms").and_then(|v| uniform(&o.at("uniform_ms"), v, flaws));
        let lognormal = o.raw("lognormal_ms").and_then(|v| lognormal(&o.at("lognormal_ms"), v, flaws));
        let quantiles = o.raw("quantiles_ms").and_then(|v| quantiles(&o.at("quantiles_ms"), v, flaws));
        let keys = value.as_object().map_or(0, |m| m.iter().filter(|(_, v)| !v.is_null()).count());
        if value.is_object() && keys != 1 {
            flaws.add(pointer, "required", value, "exactly one of fixed_ms, uniform_ms, lognormal_ms, quantiles_ms");
        }
        o.finish(flaws);
        fixed.or(uniform).or(lognormal).or(quantiles)
    }

    /// One sample, times `scale`.
    pub(crate) fn sample(&self, scale: f64, chance: &mut dyn Chance) -> Span {
        if scale <= 0.0 {
            return Span::ZERO;
        }
        let milliseconds = match self {
            Self::Fixed(ms) => *ms,
            Self::Uniform(low, high) => low + (high - low) * chance.fraction(),
            Self::Lognormal { p50, p99 } => {
                // Box-Muller; 2.326 is the normal distribution's 99th percentile.
                let radius = (-2.0 * (1.0 - chance.fraction()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * chance.fraction()).cos();
                p50 * ((p99 / p50).ln() / 2.326_347_874 * normal).exp()
            }
            Self::Quantiles(points) => quantile(points, chance.fraction() * 100.0),
        };
        Span::from_seconds_f64(milliseconds.min(MAX_MS) * scale / 1000.0)
    }
}

/// Below the lowest recorded point half of it is taken as the least, above the highest its value as the most.
fn quantile(points: &[(f64, f64)], percent: f64) -> f64 {
    let mut before = (0.0, points.first().map_or(0.0, |(_, v)| v / 2.0));
    for point in points {
        if percent <= point.0 {
            let width = point.0 - before.0;
            let share = if width > 0.0 { (percent - before.0) / width } else { 1.0 };
            return before.1 + (point.1 - before.1) * share;
        }
        before = *point;
    }
    before.1
}

fn uniform(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Model> {
    let Some([low, high]) = value.as_array().map(Vec::as_slice) else {
        flaws.add(pointer, "type", value, "must be a list of two numbers: the least and the most");
        return None;
    };
    let low = number_of(&format!("{pointer}/0"), low, 0.0, MAX_MS, flaws)?;
    let high = number_of(&format!("{pointer}/1"), high, low, MAX_MS, flaws)?;
    Some(Model::Uniform(low, high))
}

fn lognormal(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Model> {
    let mut o = Object::new(pointer, value, flaws);
    let (p50, p99) = (o.required("p50", flaws), o.required("p99", flaws));
    let p50 = p50.and_then(|v| number_of(&o.at("p50"), v, 0.001, MAX_MS, flaws));
    let p99 = p99.and_then(|v| number_of(&o.at("p99"), v, p50.unwrap_or(0.001), MAX_MS, flaws));
    o.finish(flaws);
    Some(Model::Lognormal { p50: p50?, p99: p99? })
}

fn quantiles(pointer: &str, value: &Value, flaws: &mut Flaws) -> Option<Model> {
    let Some(map) = value.as_object().filter(|m| !m.is_empty()) else {
        flaws.add(pointer, "type", value, "must be an object of percent to milliseconds");
        return None;
    };
    let mut points = Vec::new();
    for (percent, v) in map {
        let at = format!("{pointer}/{percent}");
        match percent.parse::<f64>().ok().filter(|p| (0.0..=100.0).contains(p)) {
            None => flaws.add(&at, "format", v, "the key must be a percentage from 0 to 100"),
            Some(p) => points.extend(number_of(&at, v, 0.0, MAX_MS, flaws).map(|ms| (p, ms))),
        }
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    if let Some((_, high)) = points.iter().zip(points.iter().skip(1)).find(|(a, b)| b.1 < a.1) {
        let at = format!("{pointer}/{}", high.0);
        flaws.add(&at, "min", &Value::from(high.1), "a higher percentile cannot be shorter than a lower one");
    }
    Some(Model::Quantiles(points))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roll::roll;
    use serde_json::json;

    fn percentile(model: &Model, share: usize) -> f64 {
        let mut all: Vec<Span> = (0..4000).map(|n| model.sample(1.0, &mut roll(5, &["t"], n))).collect();
        all.sort();
        all.get(all.len() * share / 100).map_or(0.0, |s| s.as_seconds_f64() * 1000.0)
    }

    fn read(value: &Value) -> (Option<Model>, Vec<String>) {
        let mut flaws = Flaws::default();
        let model = Model::read("/l", value, &mut flaws);
        (model, flaws.0.into_iter().map(|f| format!("{} {}", f.pointer, f.rule)).collect())
    }

    #[test]
    fn samples_follow_their_model() {
        let lognormal = read(&json!({"lognormal_ms": {"p50": 800, "p99": 4000}})).0.expect("model");
        let p50 = percentile(&lognormal, 50);
        assert!((740.0..860.0).contains(&p50), "{p50}");
        let p99 = percentile(&lognormal, 99);
        assert!((3400.0..4700.0).contains(&p99), "{p99}");
        let quantiles = read(&json!({"quantiles_ms": {"50": 800, "90": 2000, "99": 4000}})).0.expect("model");
        let p90 = percentile(&quantiles, 90);
        assert!((1900.0..2150.0).contains(&p90), "{p90}");
        assert_eq!(lognormal.sample(0.0, &mut roll(1, &[], 1)), Span::ZERO);
        let fast = Model::Fixed(100.0).sample(0.01, &mut roll(1, &[], 1));
        assert_eq!(fast, Span::millis(1));
    }

    #[test]
    fn faults_have_pointers() {
        assert_eq!(read(&json!({"fixed_ms": -1})).1, ["/l/fixed_ms min"]);
        assert_eq!(read(&json!({"uniform_ms": [5, 1]})).1, ["/l/uniform_ms/1 min"]);
        assert_eq!(read(&json!({"lognormal_ms": {"p50": 5}})).1, ["/l/lognormal_ms/p99 required"]);
        assert_eq!(read(&json!({"quantiles_ms": {"x": 5}})).1, ["/l/quantiles_ms/x format"]);
        assert_eq!(read(&json!({"fixed_ms": 1, "uniform_ms": [1, 2]})).1, ["/l required"]);
        assert_eq!(read(&json!({"fixd_ms": 1})).1, ["/l/fixd_ms unknown_key"]);
    }
}
