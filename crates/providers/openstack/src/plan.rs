//! The operations of a vps, as a plan.
//!
//! `after` follows what the objects stand on, no more: group and volume are made side by side, and the ledger walked
//! backwards gives the order in which OpenStack lets go of them.

use provisor_core::Spec;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::Plan;
use provisor_core::workflow::plan::{PLAN_VERSION, Planned};
use provisor_provider::Action;

use crate::objects::Object;
use crate::ports::{self, Way};

/// Budgets in seconds: volumes are copied, servers boot, cloud-init runs.
const VOLUME: i64 = 600;
const SERVER: i64 = 600;
const PROBE: i64 = 300;
const STOP: i64 = 300;

/// The operations of an attempt.
pub(crate) fn attempt(spec: &Spec) -> Plan {
    let mut operations = vec![
        Planned::new("create_security_group", Step::Allocate).makes(Object::SecurityGroup.kind()).call_limit(35),
        Planned::new("create_volume", Step::Allocate).makes(Object::Volume.kind()).within(VOLUME).call_limit(65),
        Planned::new("create_port", Step::Allocate).after(&["create_security_group"]).makes(Object::Port.kind()).call_limit(50),
        Planned::new("create_server", Step::Allocate)
            .after(&["create_port", "create_volume"])
            .makes(Object::Server.kind())
            .within(180)
            .call_limit(80),
    ];
    for port in ports::asked(spec) {
        operations.push(
            Planned::new("create_rule", Step::Configure)
                .item(port.to_string())
                .after(&["create_security_group"])
                .makes(Object::Rule.kind()),
        );
    }
    operations.push(
        Planned::new("create_floating_ip", Step::Configure)
            .after(&["create_port"])
            .makes(Object::FloatingIp.kind())
            .call_limit(50),
    );
    operations
        .push(Planned::new("wait_server", Step::Activate).after(&["create_server"]).recreate("create_server").within(SERVER));
    operations.extend(probes(spec));
    Plan { version: PLAN_VERSION, operations }
}

/// The operations of an action on a standing service.
pub(crate) fn action(action: Action, spec: &Spec) -> Plan {
    let operations = match action {
        Action::Suspend => vec![Planned::new("stop_server", Step::Activate).within(STOP)],
        Action::Reactivate => {
            let mut operations = vec![Planned::new("start_server", Step::Activate).within(SERVER)];
            operations.extend(probes(spec));
            operations
        }
    };
    Plan { version: PLAN_VERSION, operations }
}

/// A probe for each asked port, in the way of its number; the request's own HTTP probe decides for its port.
fn probes(spec: &Spec) -> Vec<Planned> {
    let own = spec.probes.as_ref().and_then(|probes| probes.http.as_ref()).map(|probe| probe.port);
    let mut all: Vec<(Way, u16)> = ports::asked(spec).into_iter().map(|port| (ports::way(port), port)).collect();
    if let Some(port) = own {
        let way = if port == 443 { Way::Https } else { Way::Http };
        all.retain(|(_, other)| *other != port);
        all.push((way, port));
    }
    all.into_iter().map(|(way, port)| Planned::new(way.operation(), Step::Verify).item(port.to_string()).within(PROBE)).collect()
}
