//! Every rule of a specification, each with its pointer.

use super::*;
use serde_json::json;

struct Reversed;
impl Seal for Reversed {
    fn seal(&self, clear: &str) -> Sealed {
        Sealed { key: "k1".into(), sealed: clear.chars().rev().collect(), fingerprint: clear.len().to_string() }
    }
}

fn vps() -> Value {
    json!({"name": "db", "tenant": "acme", "kind": "vps", "region": "eu-west-1",
        "size": {"cpu": 2, "memory_gb": 4, "storage_gb": 40}, "image": "debian-12", "ports": [22, 80]})
}

fn faults(value: &Value) -> Vec<(String, String)> {
    let flaws = Spec::check("/requests/0", value, &Reversed).expect_err("must be refused");
    flaws.into_iter().map(|f| (f.pointer, f.rule)).collect()
}

#[test]
fn a_good_vps_is_read() {
    let spec = Spec::check("", &vps(), &Reversed).expect("good");
    assert_eq!(spec.kind, Kind::Vps);
    assert_eq!(spec.strategy, Strategy::default());
    assert_eq!(spec.needs().cpu, 2);
    let kept = serde_json::to_value(&spec).expect("json");
    assert_eq!(serde_json::from_value::<Spec>(kept).expect("back"), spec);
}

#[test]
fn what_is_left_out_of_the_json_is_known() {
    let spec = Spec::check("", &vps(), &Reversed).expect("good");
    let json = serde_json::to_value(&spec).expect("json");
    let keys: Vec<&str> = json.as_object().expect("object").keys().map(String::as_str).collect();
    let there = ["kind", "labels", "depends_on", "name", "ports", "region_fallback", "ssh_keys", "strategy", "tenant"];
    assert!(there.iter().all(|key| keys.contains(key)));
    assert!(keys.iter().all(|key| there.contains(key) || Spec::OPTIONAL.contains(key)), "{keys:?}");
    assert!(["image", "region", "size"].iter().all(|key| keys.contains(key)) && keys.len() == 12, "{keys:?}");
    assert!(!json.to_string().contains("null"), "{json}");
}

#[test]
fn each_rule_is_named_with_its_pointer() {
    let cases = [
        (json!({"sizee": 1}), "/requests/0/sizee", "unknown_key"),
        (json!({"size": {"cpu": 0, "memory_gb": 1, "storage_gb": 1}}), "/requests/0/size/cpu", "min"),
        (json!({"size": "large"}), "/requests/0/size", "type"),
        (json!({"kind": "vm"}), "/requests/0/kind", "enum"),
        (json!({"name": "Not Good"}), "/requests/0/name", "format"),
        (json!({"image": null}), "/requests/0/image", "required"),
        (json!({"product": "x"}), "/requests/0/product", "unknown_key"),
        (json!({"ports": [22, 22]}), "/requests/0/ports", "unique"),
        (json!({"ports": [70000]}), "/requests/0/ports/0", "max"),
        (json!({"strategy": {"type": "race"}}), "/requests/0/strategy/type", "enum"),
        (json!({"notify_email": "nobody"}), "/requests/0/notify_email", "format"),
        (json!({"ssh_keys": ["rsa"]}), "/requests/0/ssh_keys/0", "format"),
        (json!({"provider": "azure"}), "/requests/0/provider", "enum"),
        (json!({"probes": {"http": {"expect": "9-1"}}}), "/requests/0/probes/http/expect", "format"),
    ];
    for (change, pointer, rule) in cases {
        let mut value = vps();
        for (key, new) in change.as_object().expect("object") {
            value[key] = new.clone();
        }
        let found = faults(&value);
        assert!(found.contains(&(pointer.to_owned(), rule.to_owned())), "{change}: {found:?}");
    }
}

#[test]
fn all_faults_come_at_once() {
    let found = faults(&json!({"name": "", "kind": "vps", "extra": 1, "size": {"cpu": -1}}));
    assert!(found.len() >= 7, "{found:?}");
}

#[test]
fn what_is_no_object_is_one_fault() {
    assert_eq!(faults(&json!([1])), [("/requests/0".to_owned(), "type".to_owned())]);
}

#[test]
fn user_data_is_never_kept_in_clear() {
    let mut value = vps();
    value["user_data"] = json!("secret");
    let spec = Spec::check("", &value, &Reversed).expect("good");
    assert!(!serde_json::to_string(&spec).expect("json").contains("\"secret\""));
}
