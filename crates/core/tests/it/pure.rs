//! Properties of the small pure functions: placement, quota, order, back-off, and reading arbitrary JSON.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;
use provisor_core::chance::SplitMix;
use provisor_core::check::Flaw;
use provisor_core::cluster::{Capacity, ClusterSpec, Health, HealthState, PROVIDER_WORDS};
use provisor_core::placement::{Candidate, choose};
use provisor_core::quota::{self, Limits, Usage};
use provisor_core::spec::{Seal, Sealed};
use provisor_core::tenant::TenantSpec;
use provisor_core::{Amounts, ClusterId, Kind, Spec, Timestamp, order};
use serde_json::{Map, Value, json};

fn config(cases: u32) -> Config {
    Config { cases, failure_persistence: None, ..Config::default() }
}

/// Type, default, switch, region, draining; limits; taken; health.
type Limit = Option<i64>;
type Asked = ((usize, bool, bool, usize, bool), (Limit, Limit, Limit, Limit), (i64, i64, i64, i64), usize);

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let limit = || prop_oneof![Just(None), (0_i64..12).prop_map(Some)];
    let one = (
        (0..PROVIDER_WORDS.len(), any::<bool>(), any::<bool>(), 0..3_usize, any::<bool>()),
        (limit(), limit(), limit(), limit()),
        (0_i64..12, 0_i64..12, 0_i64..12, 0_i64..12),
        0..3_usize,
    );
    prop::collection::vec(one, 0..6).prop_map(|all| {
        let states = [HealthState::Online, HealthState::Degraded, HealthState::Offline];
        let mut chance = SplitMix::new(3);
        let build = |(i, ((provider, default, enabled, region, draining), limits, taken, health)): (usize, Asked)| {
            let (cpu, memory_gb, storage_gb, slots) = limits;
            let spec = json!({"name": format!("c{i}"), "provider": "simulation", "simulates": "openstack", "region": "eu"});
            let (mut spec, _) = ClusterSpec::check("", &spec).unwrap();
            // Half of them are simulations, which play what they simulate.
            if i % 2 == 0 {
                (spec.provider, spec.simulates) = (PROVIDER_WORDS[provider].1, Vec::new());
            } else if provider < 6 {
                spec.simulates = vec![PROVIDER_WORDS[provider].1];
            }
            ["eu", "us", "asia"][region].clone_into(&mut spec.region);
            (spec.default, spec.provisioning_enabled) = (default, enabled);
            spec.capacity = Capacity { cpu, memory_gb, storage_gb, slots };
            let (cpu, memory_gb, storage_gb, taken_slots) = taken;
            Candidate {
                id: ClusterId::new(Timestamp(0), &mut chance),
                spec,
                health: Health { state: states[health], ..Health::default() },
                taken: Amounts { cpu, memory_gb, storage_gb },
                taken_slots,
                draining: draining && i % 3 == 0,
                closed: None,
            }
        };
        all.into_iter().enumerate().map(build).collect()
    })
}

fn fits(limit: Option<i64>, taken: i64, asked: i64) -> bool {
    limit.is_none_or(|l| taken + asked <= l)
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn placement_is_a_pure_function_and_never_overfills(all in candidates(), avoid in any::<u8>(), near in any::<bool>(), size in 1_i64..6) {
        let size = json!({"cpu": size, "memory_gb": size, "storage_gb": size});
        let spec = crate::bench::spec("vps", &json!({"size": size}));
        let regions: Vec<String> = if near { vec!["eu".into(), "us".into()] } else { vec!["eu".into()] };
        let avoid: Vec<ClusterId> = all.iter().enumerate().filter(|(i, _)| avoid >> i & 1 == 1).map(|(_, c)| c.id).collect();
        let choice = choose(&all, &spec, &regions, &avoid);
        prop_assert_eq!(&choice, &choose(&all, &spec, &regions, &avoid));
        let needs = spec.needs();
        let takes = |c: &Candidate| {
            let limit = c.spec.capacity;
            c.spec.kinds().contains(&Kind::Vps) && regions.contains(&c.spec.region) && !avoid.contains(&c.id) && !c.draining
                && c.spec.provisioning_enabled && c.health.state == HealthState::Online
                && fits(limit.cpu, c.taken.cpu, needs.cpu) && fits(limit.memory_gb, c.taken.memory_gb, needs.memory_gb)
                && fits(limit.storage_gb, c.taken.storage_gb, needs.storage_gb) && fits(limit.slots, c.taken_slots, 1)
        };
        // The nearest region first, in it the default cluster, else the first in order of registration.
        let rank = |c: &&Candidate| regions.iter().position(|r| *r == c.spec.region);
        let order = |c: &&Candidate| (rank(c), !c.spec.default);
        let best = all.iter().filter(|c| takes(c)).min_by_key(order);
        prop_assert_eq!(choice.cluster, best.map(|c| c.id));
        let able = all.iter().filter(|c| takes(c)).count();
        prop_assert_eq!(choice.rejected.len() + able, all.len(), "every other cluster has its reason");
        prop_assert!(choice.rejected.iter().all(|(_, reason)| !reason.is_empty()));
        prop_assert!(choice.rejected.iter().all(|(name, _)| all.iter().any(|c| c.spec.name == *name && !takes(c))));
    }

    #[test]
    fn what_is_accepted_never_exceeds_a_limit(
        limits in (prop::option::of(0_i64..20), prop::option::of(0_i64..20), prop::option::of(0_i64..20), prop::option::of(0_i64..5)),
        asks in prop::collection::vec((0_i64..6, 0_i64..6, 0_i64..6, 0..4_usize), 0..20),
    ) {
        let requests: BTreeMap<Kind, i64> = limits.3.map(|n| (Kind::Vps, n)).into_iter().collect();
        let limits = Limits { cpu: limits.0, memory_gb: limits.1, storage_gb: limits.2, requests };
        let mut used = Usage::default();
        for (cpu, memory_gb, storage_gb, kind) in asks {
            let mut asked = Usage::default();
            asked.add(Kind::ALL[kind].1, Amounts { cpu, memory_gb, storage_gb }, 1);
            let exceeded = quota::exceeded(&limits, &used, &asked);
            let all = quota::dimensions(&limits, &used, &asked);
            prop_assert!(exceeded.iter().all(|d| d.limit.is_some_and(|l| d.used + d.requested > l)), "a refusal is right");
            prop_assert_eq!(exceeded.len(), all.iter().filter(|d| !d.fits()).count());
            if exceeded.is_empty() {
                used.add(Kind::ALL[kind].1, Amounts { cpu, memory_gb, storage_gb }, 1);
            }
            let now = quota::dimensions(&limits, &used, &Usage::default());
            prop_assert!(now.iter().all(|d| d.limit.is_none_or(|l| d.used <= l)), "{now:?}");
            prop_assert!(now.iter().all(quota::Dimension::fits), "nothing asked always fits");
        }
    }

    #[test]
    fn kahn_agrees_with_trying(edges in prop::collection::vec(prop::collection::vec(0..6_usize, 0..3), 0..6)) {
        let n = edges.len();
        let edges: Vec<Vec<usize>> = edges.into_iter().map(|on| on.into_iter().filter(|p| *p < n).collect()).collect();
        match order::sort(&edges) {
            Ok(order) => {
                prop_assert_eq!(Some(order), first_order(&edges));
            }
            Err(cycle) => {
                prop_assert_eq!(first_order(&edges), None, "there is an order after all");
                prop_assert!(cycle.path.len() >= 2);
                prop_assert_eq!(cycle.path.first(), cycle.path.last());
                for pair in cycle.path.windows(2) {
                    prop_assert!(edges[pair[0]].contains(&pair[1]), "the path follows dependencies");
                }
            }
        }
    }

    #[test]
    fn arbitrary_json_is_read_without_a_panic(value in json_value()) {
        let results = [
            Spec::check("/requests/0", &value, &Clear).err(),
            ClusterSpec::check("/clusters/0", &value).err(),
            TenantSpec::check("/tenants/0", &value).err(),
        ];
        for (flaws, at) in results.into_iter().zip(["/requests/0", "/clusters/0", "/tenants/0"]) {
            check_flaws(at, &flaws.unwrap_or_default())?;
        }
    }

    #[test]
    fn nearly_right_json_is_read_without_a_panic(patches in prop::collection::vec((0..KEYS.len(), json_value()), 0..4)) {
        let mut value = json!({"name": "db", "tenant": "acme", "kind": "vps", "region": "eu", "image": "debian-12", "provider": "openstack",
            "size": {"cpu": 1, "memory_gb": 1, "storage_gb": 1}});
        for (key, new) in patches {
            value[KEYS[key]] = new;
        }
        match Spec::check("", &value, &Clear) {
            Ok(spec) => {
                let text = serde_json::to_value(&spec).unwrap();
                let back: Spec = serde_json::from_value(text).unwrap();
                prop_assert_eq!(back, spec, "what is read survives its text");
            }
            Err(flaws) => check_flaws("", &flaws)?,
        }
        if let Err(flaws) = ClusterSpec::check("", &value) {
            check_flaws("", &flaws)?;
        }
        if let Err(flaws) = TenantSpec::check("", &value) {
            check_flaws("", &flaws)?;
        }
    }
}

/// The lowest order by trying: at each place the lowest node whose prerequisites stand already.
fn first_order(edges: &[Vec<usize>]) -> Option<Vec<usize>> {
    let mut order: Vec<usize> = Vec::new();
    while order.len() < edges.len() {
        let next = (0..edges.len()).find(|n| !order.contains(n) && edges[*n].iter().all(|p| order.contains(p)))?;
        order.push(next);
    }
    Some(order)
}

const KEYS: [&str; 26] = [
    "name",
    "tenant",
    "kind",
    "region",
    "region_fallback",
    "size",
    "provider",
    "cluster",
    "image",
    "ports",
    "ssh_keys",
    "user_data",
    "probes",
    "strategy",
    "order_id",
    "labels",
    "depends_on",
    "source",
    "ttl_seconds",
    "queue_timeout_seconds",
    "capacity",
    "settings",
    "endpoint",
    "credentials",
    "quota",
    "max_concurrent",
];

const RULES: [&str; 9] = ["required", "unknown_key", "type", "format", "min", "max", "enum", "unique", "exists"];

fn check_flaws(at: &str, flaws: &[Flaw]) -> Result<(), TestCaseError> {
    for flaw in flaws {
        prop_assert!(flaw.pointer.starts_with(at), "{} is not below {at}", flaw.pointer);
        prop_assert!(RULES.contains(&flaw.rule.as_str()), "{} is no rule", flaw.rule);
        prop_assert!(!flaw.message.is_empty());
        prop_assert!(flaw.value.to_string().len() < 2000, "a pasted megabyte does not come back");
    }
    Ok(())
}

struct Clear;
impl Seal for Clear {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: "k".into(), sealed: clear.into(), fingerprint: clear.into() }
    }
}

/// Values of all types, with keys and words that mean something now and then.
fn json_value() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        Just("vps"),
        Just("managed"),
        Just("environment"),
        Just("simulation"),
        Just("openstack"),
        Just("discover"),
        Just("failover"),
        Just("race"),
        Just("200-399"),
        Just("https://git.example/a.git"),
        Just(""),
        Just("\u{0}"),
        Just("a@b"),
        Just("-"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        words.prop_map(Value::from),
        (0..400_usize).prop_map(|n| Value::from("ä".repeat(n))),
    ];
    let inner = [
        "cpu",
        "memory_gb",
        "storage_gb",
        "slots",
        "type",
        "max_attempts",
        "http",
        "port",
        "path",
        "expect",
        "repository",
        "commit_sha",
        "retry",
        "initial_seconds",
        "max_retries",
        "deadlines",
        "probe",
        "requests",
        "vps",
        "*",
        "a/b",
        "~",
    ];
    let key = prop_oneof![
        prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned),
        prop::sample::select(inner.to_vec()).prop_map(str::to_owned),
        ".{0,4}",
    ];
    leaf.prop_recursive(3, 24, 6, move |element| {
        prop_oneof![
            prop::collection::vec(element.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), element, 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}
