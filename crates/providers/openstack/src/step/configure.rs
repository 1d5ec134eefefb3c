//! Configure: a rule for each asked port, and the floating IP.

use provisor_core::event::Endpoint;
use provisor_core::workflow::Made;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, Failure};
use provisor_provider::Progress;
use serde_json::json;

use super::allocate::already;
use super::{has, made, tag};
use crate::Openstack;
use crate::client::{CallError, Outcome};
use crate::objects::{Object, text};
use crate::resolve::{self, Role};
use crate::{classify, ports};

/// Opens one port. The rule's content is its natural key: a second one is refused, which is as good as done.
pub(crate) async fn create_rule(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    let item = work.item.as_deref().unwrap_or_default();
    let port: u16 = item
        .parse()
        .map_err(|_| Failure::new(Class::Permanent, "bad_item", format!("create_rule was given the port {item:?}")))?;
    let body = json!({
        "security_group_id": has(work, Object::SecurityGroup)?,
        "direction": "ingress", "ethertype": "IPv4", "protocol": "tcp",
        "port_range_min": port, "port_range_max": port, "description": tag(work)?,
    });
    if let Some(made) = already(work) {
        return Ok(Progress::Done(made));
    }
    match Object::Rule.create(&cloud.client, body).await {
        Ok(answer) => made(Object::Rule, &answer).map(Progress::Done),
        Err(error) => match present_rule(&error) {
            Some(id) => Ok(Progress::Done(Made { provider_id: Some(id), ..Made::default() })),
            None => Err(classify::failure(&error)),
        },
    }
}

/// The id of the rule that already says the same: "Security group rule already exists. Rule id is ….".
fn present_rule(error: &CallError) -> Option<String> {
    let Outcome::Answered { status: 409, fault: Some(fault), message, .. } = &error.outcome else { return None };
    if fault != "SecurityGroupRuleExists" {
        return None;
    }
    let (_, rest) = message.split_once("Rule id is ")?;
    let id: String = rest.chars().take_while(|c| c.is_ascii_hexdigit() || *c == '-').collect();
    (!id.is_empty()).then_some(id)
}

/// The address. It may be bound while the server is still building, since the port is already there.
pub(crate) async fn create_floating_ip(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    if let Some(id) = &work.provider_id {
        let read = Object::FloatingIp.read(&cloud.client, id).await.map_err(|e| classify::failure(&e))?;
        let found = read.ok_or_else(|| super::vanished(Object::FloatingIp, id))?;
        return with_address(work, &found);
    }
    let network = resolve::network(&cloud.client, &cloud.settings, Role::External).await?;
    let body = json!({
        "floating_network_id": network, "port_id": has(work, Object::Port)?, "description": tag(work)?,
    });
    let call = Object::FloatingIp.creation(body);
    let answer = cloud.client.call(call).await.map_err(|e| classify::failure(&e))?;
    with_address(work, &Object::FloatingIp.inside(answer))
}

fn with_address(work: &Work, floating_ip: &serde_json::Value) -> Result<Progress, Failure> {
    let mut made = made(Object::FloatingIp, floating_ip)?;
    let address = text(floating_ip, "floating_ip_address")
        .ok_or_else(|| Failure::new(Class::Transient, "no_address", "the floating IP has no address").spoiled())?;
    made.facts.insert("floating_ip".to_owned(), address.to_owned());
    made.endpoints = ports::asked(&work.spec)
        .into_iter()
        .map(|port| {
            let way = ports::way(port);
            Endpoint { name: way.endpoint_name(port), url: way.url(address, port) }
        })
        .collect();
    Ok(Progress::Done(made))
}

#[cfg(test)]
mod tests {
    use reqwest::Method;

    use super::*;
    use crate::catalog::Service;

    #[test]
    fn a_rule_that_is_there_already_is_taken() {
        let mut error = CallError {
            method: Method::POST,
            service: Service::Network,
            path: "/security-group-rules".into(),
            outcome: Outcome::Answered {
                status: 409,
                fault: Some("SecurityGroupRuleExists".into()),
                message: "Security group rule already exists. Rule id is 0a1b-22.".into(),
                retry_after: None,
            },
            request_id: None,
        };
        assert_eq!(present_rule(&error), Some("0a1b-22".into()));
        if let Outcome::Answered { fault, .. } = &mut error.outcome {
            *fault = Some("OverQuota".into());
        }
        assert_eq!(present_rule(&error), None);
    }
}
