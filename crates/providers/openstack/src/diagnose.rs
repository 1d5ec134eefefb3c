//! Why something is as it is, asked after the fact: what OpenStack tells a project's own users.
//!
//! A server that fails or hangs says little by itself. Its instance actions name the event that is not over or went
//! wrong, with the request id that an operator finds the rest by in the services' logs; Cinder keeps messages for
//! users beside its volumes; a console ends with what the guest did last. All of it is for people: nothing is decided
//! by it, and what cannot be read is left out.

use provisor_core::workflow::asks_the_service;
use provisor_core::workflow::call::Work;
use serde_json::{Value, json};

use crate::Openstack;
use crate::catalog::Service;
use crate::client::Call;
use crate::objects::{Object, text};

/// Actions of a server that are looked into: its creation and the last one.
const ACTIONS: usize = 2;
/// Lines of a console that are kept.
const CONSOLE: usize = 6;
/// Messages of a volume that are kept.
const MESSAGES: usize = 3;

/// What can be learned about an operation's object.
pub(crate) async fn tell(cloud: &Openstack, work: &Work) -> Vec<String> {
    let of = |object: Object| work.resources.get(object.kind()).map(String::as_str);
    match work.operation.as_str() {
        "create_volume" => match &work.provider_id {
            Some(id) => messages(cloud, id).await,
            None => Vec::new(),
        },
        "create_server" => match &work.provider_id {
            Some(id) => server(cloud, id).await,
            None => Vec::new(),
        },
        "wait_server" | "start_server" | "stop_server" => {
            let mut lines = match of(Object::Server) {
                Some(id) => server(cloud, id).await,
                None => Vec::new(),
            };
            if let Some(id) = of(Object::Volume) {
                lines.extend(messages(cloud, id).await);
            }
            lines
        }
        operation if asks_the_service(operation) => unreachable(cloud, work).await,
        _ => Vec::new(),
    }
}

async fn ask(cloud: &Openstack, call: Call) -> Value {
    cloud.client.call(call).await.unwrap_or_default()
}

async fn read(cloud: &Openstack, object: Object, id: &str) -> Value {
    object.read(&cloud.client, id).await.ok().flatten().unwrap_or_default()
}

async fn server(cloud: &Openstack, id: &str) -> Vec<String> {
    let found = read(cloud, Object::Server, id).await;
    let mut lines = Vec::new();
    if let Some(fault) = found.get("fault") {
        let code = fault.get("code").and_then(Value::as_i64).unwrap_or_default();
        let at = text(fault, "created").unwrap_or("unknown time");
        lines.push(format!("fault {code} at {at}: {}", text(fault, "message").unwrap_or("no message")));
    }
    lines.extend(actions(cloud, id).await);
    lines
}

/// The events of a server's last actions that are not over, or did not go well.
async fn actions(cloud: &Openstack, id: &str) -> Vec<String> {
    let path = format!("{}/os-instance-actions", Object::Server.path(id));
    let answer = ask(cloud, Call::get(Service::Compute, path.as_str())).await;
    let mut lines = Vec::new();
    for action in rows(&answer, "instanceActions").iter().take(ACTIONS) {
        let request = text(action, "request_id").unwrap_or_default();
        let detail = ask(cloud, Call::get(Service::Compute, format!("{path}/{request}"))).await;
        lines.extend(action_lines(action, &rows(detail.get("instanceAction").unwrap_or(&Value::Null), "events")));
    }
    lines
}

fn action_lines(action: &Value, events: &[Value]) -> Vec<String> {
    let field = |of: &Value, key: &str| text(of, key).unwrap_or("unknown").to_owned();
    let name = format!("action {} ({})", field(action, "action"), field(action, "request_id"));
    let mut lines: Vec<String> = text(action, "message").map(|said| format!("{name}: {said}")).into_iter().collect();
    for event in events {
        let what = field(event, "event");
        match text(event, "result") {
            Some("Success") => {}
            Some(result) => {
                let details = text(event, "details").map_or_else(String::new, |words| format!(": {words}"));
                lines.push(format!("{name}: {what} ended with {result}{details}"));
            }
            None => lines.push(format!("{name}: {what} is under way since {}", field(event, "start_time"))),
        }
    }
    // Nova calls an aborted build a success; its request id finds the rest in the logs all the same.
    if lines.is_empty() {
        let names: Vec<String> = events.iter().map(|event| field(event, "event")).collect();
        lines.push(match names.as_slice() {
            [] => format!("{name}: accepted, and no service has begun with it"),
            all => format!("{name}: Nova counts {} as done", all.join(", ")),
        });
    }
    lines
}

/// What Cinder has for users about a volume.
async fn messages(cloud: &Openstack, id: &str) -> Vec<String> {
    let answer = ask(cloud, Call::get(Service::Volume, "/messages").query("resource_uuid", id)).await;
    let line = |message: &Value| {
        let field = |key| text(message, key).unwrap_or("unknown");
        format!("volume message {} ({}): {}", field("event_id"), field("request_id"), field("user_message"))
    };
    rows(&answer, "messages").iter().take(MESSAGES).map(line).collect()
}

/// A server that runs and does not answer: what lies between it and us, and what it says itself.
async fn unreachable(cloud: &Openstack, work: &Work) -> Vec<String> {
    let mut lines = Vec::new();
    for object in [Object::Server, Object::Port, Object::FloatingIp] {
        if let Some(id) = work.resources.get(object.kind()) {
            let found = read(cloud, object, id).await;
            lines.push(format!("{} {id} is {}", object.kind(), text(&found, "status").unwrap_or("not to be seen")));
        }
    }
    if let Some(id) = work.resources.get(Object::SecurityGroup.kind()) {
        let group = read(cloud, Object::SecurityGroup, id).await;
        lines.push(format!("the security group lets in {}", doors(&rows(&group, "security_group_rules"))));
    }
    if let Some(id) = work.resources.get(Object::Server.kind()) {
        lines.extend(console(cloud, id).await);
    }
    lines
}

fn doors(rules: &[Value]) -> String {
    let inward = rules.iter().filter(|rule| text(rule, "direction") == Some("ingress"));
    let ports: Vec<String> = inward
        .map(|rule| {
            let protocol = text(rule, "protocol").unwrap_or("everything");
            let port = rule.get("port_range_min").and_then(Value::as_u64);
            port.map_or_else(|| protocol.to_owned(), |port| format!("{protocol} {port}"))
        })
        .collect();
    if ports.is_empty() { "nothing".to_owned() } else { ports.join(", ") }
}

async fn console(cloud: &Openstack, id: &str) -> Vec<String> {
    let body = json!({"os-getConsoleOutput": {"length": 30}});
    let answer = ask(cloud, Call::post(Service::Compute, format!("{}/action", Object::Server.path(id)), body)).await;
    last_lines(text(&answer, "output").unwrap_or_default())
}

/// The end of a console, but nothing from where it speaks of secrets on: cloud-init prints passwords that it has made.
fn last_lines(output: &str) -> Vec<String> {
    const SECRET: [&str; 4] = ["passw", "secret", "token", "private key"];
    let quiet = |line: &&str| {
        let lower = line.to_lowercase();
        !SECRET.iter().any(|word| lower.contains(word))
    };
    let lines: Vec<&str> = output.lines().map(str::trim).filter(|line| !line.is_empty()).take_while(quiet).collect();
    let from = lines.len().saturating_sub(CONSOLE);
    lines.get(from..).unwrap_or_default().iter().map(|line| format!("console: {line}")).collect()
}

fn rows(answer: &Value, key: &str) -> Vec<Value> {
    answer.get(key).and_then(Value::as_array).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_tells_what_failed_and_what_hangs() {
        let action = json!({"action": "create", "request_id": "req-1", "message": "Error"});
        let events = [
            json!({"event": "conductor_schedule", "result": "Success"}),
            json!({"event": "compute_build", "result": "Error", "details": "no room"}),
            json!({"event": "compute_spawn", "start_time": "12:00", "result": null}),
        ];
        let lines = action_lines(&action, &events);
        let expected = [
            "action create (req-1): Error",
            "action create (req-1): compute_build ended with Error: no room",
            "action create (req-1): compute_spawn is under way since 12:00",
        ];
        assert_eq!(lines, expected);
        let quiet = action_lines(&json!({"action": "start", "request_id": "req-2"}), &[]);
        assert_eq!(quiet, ["action start (req-2): accepted, and no service has begun with it"]);
        let done = action_lines(&json!({"action": "stop", "request_id": "req-3"}), &[json!({"event": "e", "result": "Success"})]);
        assert_eq!(done, ["action stop (req-3): Nova counts e as done"]);
    }

    #[test]
    fn a_console_is_cut_where_it_speaks_of_secrets() {
        let lines = last_lines("boot\n\ncloud-init: up\nSet the following random PASSWORDS\ndebian:hunter2\nlogin:");
        assert_eq!(lines, ["console: boot", "console: cloud-init: up"]);
        assert_eq!(last_lines("1\n2\n3\n4\n5\n6\n7\n8").first().map(String::as_str), Some("console: 3"));
    }

    #[test]
    fn open_ports_are_named() {
        let rules = [
            json!({"direction": "egress", "protocol": null}),
            json!({"direction": "ingress", "protocol": "tcp", "port_range_min": 22}),
        ];
        assert_eq!(doors(&rules), "tcp 22");
        assert_eq!(doors(&rules[..1]), "nothing");
    }
}
