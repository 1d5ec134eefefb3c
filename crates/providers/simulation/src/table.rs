//! What the simulated cloud plays, as data: the operations of each provider type with what they do.
//!
//! A new provider type is a new table here and nothing else. Rejected: a trait per type, because then each would have
//! faults, latency, repeats and dependencies in its own way.

use provisor_core::Spec;
use provisor_core::cluster::ProviderType;
use provisor_core::lifecycle::Step;
use provisor_core::workflow::Plan;
use provisor_core::workflow::plan::{PLAN_VERSION, Planned};
use provisor_provider::Action;

use crate::ports::{self, Way};

/// What an operation does to the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Makes a resource.
    Make,
    /// Opens the port of its item; the second time the rule is there already.
    Rule,
    /// Changes nothing that can be seen.
    Change,
    /// Begins to boot.
    PowerOn,
    /// Stops; services no longer answer.
    PowerOff,
    /// Is done once the host has booted.
    WaitHost,
    /// Is done when the service on the port of its item answers.
    Probe(Way),
    /// Is done when the URL of the service answers.
    ProbeUrl,
    /// The cloud's own judgement.
    Check,
    /// Gives the tenant its way in.
    Access,
    /// A person does it.
    Person,
}

/// Where the time of an operation goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The call takes long.
    Call,
    /// The call answers at once that it is under way.
    Wait,
}

/// One operation as it is played.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its step.
    pub(crate) step: Step,
    /// Operations that come first.
    pub(crate) after: &'static [&'static str],
    /// What it does.
    pub(crate) effect: Effect,
    /// The kind that it makes, or that it works on.
    pub(crate) kind: &'static str,
    /// Kinds that must be there, and that cannot go while what it makes is there.
    pub(crate) needs: &'static [&'static str],
    /// Where its time goes.
    pub(crate) pace: Pace,
    /// The operation whose latency is the time that the host takes to boot after this one.
    pub(crate) boots: Option<&'static str>,
    /// Seconds.
    pub(crate) deadline: i64,
    /// Seconds.
    pub(crate) call_limit: i64,
    /// What is made anew when it times out.
    pub(crate) recreate: Option<&'static str>,
    /// `success_rate` of its step is decided here.
    pub(crate) judged: bool,
}

/// How the cloud takes a create that repeats another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// It makes another one.
    None,
    /// The name is taken.
    Name,
    /// The number (VMID) is taken.
    Number,
}

/// One provider type as it is played.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Played {
    /// The type.
    pub(crate) provider: ProviderType,
    /// How a create repeats.
    pub(crate) key: Key,
    /// The kind that boots, stops and answers.
    pub(crate) host: &'static str,
    /// The kind that holds everything else of its attempt and takes it along.
    pub(crate) container: Option<&'static str>,
    /// The kind with the address; empty where nothing has one.
    pub(crate) front: &'static str,
    /// The kind with the firewall rules; `None`: every asked port is open.
    pub(crate) rules: Option<&'static str>,
    /// Which fact tells the address.
    pub(crate) address_fact: &'static str,
    /// The operations of an attempt.
    pub(crate) attempt: &'static [Operation],
    /// The operations of suspend.
    pub(crate) suspend: &'static [Operation],
    /// The operations of reactivate.
    pub(crate) reactivate: &'static [Operation],
    /// Figures of metrics that this type does not tell, and why.
    pub(crate) unavailable: &'static [(&'static str, &'static str)],
}

const fn operation(name: &'static str, step: Step, effect: Effect, kind: &'static str) -> Operation {
    Operation {
        name,
        step,
        after: &[],
        effect,
        kind,
        needs: &[],
        pace: Pace::Call,
        boots: None,
        deadline: 60,
        call_limit: 30,
        recreate: None,
        judged: false,
    }
}

const fn make(name: &'static str, kind: &'static str) -> Operation {
    operation(name, Step::Allocate, Effect::Make, kind)
}

const fn on(name: &'static str, step: Step, effect: Effect, kind: &'static str) -> Operation {
    operation(name, step, effect, kind)
}

impl Operation {
    const fn after(mut self, names: &'static [&'static str]) -> Self {
        self.after = names;
        self
    }
    const fn needs(mut self, kinds: &'static [&'static str]) -> Self {
        self.needs = kinds;
        self
    }
    const fn waits(mut self, deadline: i64) -> Self {
        self.pace = Pace::Wait;
        self.deadline = deadline;
        self
    }
    const fn boots(mut self, name: &'static str) -> Self {
        self.boots = Some(name);
        self
    }
    const fn recreate(mut self, name: &'static str) -> Self {
        self.recreate = Some(name);
        self
    }
    const fn judged(mut self) -> Self {
        self.judged = true;
        self
    }

    /// Whether there is one for each port, with the port as its item.
    fn ports(&self, spec: &Spec) -> Vec<Option<u16>> {
        match self.effect {
            Effect::Rule => ports::asked(spec).into_iter().map(|(p, _)| Some(p)).collect(),
            Effect::Probe(way) => ports::asked(spec).into_iter().filter(|(_, w)| *w == way).map(|(p, _)| Some(p)).collect(),
            _ => vec![None],
        }
    }

    fn planned(&self, spec: &Spec) -> Vec<Planned> {
        let one = |port: Option<u16>| {
            let mut planned = Planned::new(self.name, self.step).after(self.after).within(self.deadline);
            planned = planned.call_limit(self.call_limit);
            if self.effect == Effect::Make {
                planned = planned.makes(self.kind);
            }
            if let Some(name) = self.recreate {
                planned = planned.recreate(name);
            }
            planned.awaits_input = self.effect == Effect::Person;
            match port {
                Some(port) => planned.item(port.to_string()),
                None => planned,
            }
        };
        self.ports(spec).into_iter().map(one).collect()
    }
}

impl Played {
    /// The table of a type; `None` for the simulation itself.
    pub(crate) fn of(provider: ProviderType) -> Option<&'static Self> {
        ALL.iter().find(|p| p.provider == provider)
    }

    /// The operations of an attempt.
    pub(crate) fn plan(&self, spec: &Spec) -> Plan {
        plan(self.attempt, spec)
    }

    /// The operations of an action.
    pub(crate) fn plan_action(&self, action: Action, spec: &Spec) -> Plan {
        let operations = match action {
            Action::Suspend => self.suspend,
            Action::Reactivate => self.reactivate,
        };
        plan(operations, spec)
    }

    /// The operation of that name; `action` looks in those of actions first.
    pub(crate) fn operation(&self, name: &str, action: bool) -> Option<&'static Operation> {
        let named = |all: &'static [Operation]| all.iter().find(|o| o.name == name);
        let of_actions = || named(self.suspend).or_else(|| named(self.reactivate));
        if action { of_actions().or_else(|| named(self.attempt)) } else { named(self.attempt).or_else(of_actions) }
    }

    /// The operation that makes a kind.
    pub(crate) fn maker(&self, kind: &str) -> Option<&'static Operation> {
        self.attempt.iter().find(|o| o.effect == Effect::Make && o.kind == kind)
    }
}

fn plan(operations: &[Operation], spec: &Spec) -> Plan {
    Plan { version: PLAN_VERSION, operations: operations.iter().flat_map(|o| o.planned(spec)).collect() }
}

const fn probe(name: &'static str, way: Way, host: &'static str) -> Operation {
    on(name, Step::Verify, Effect::Probe(way), host).waits(300).judged()
}

const OPENSTACK: Played = Played {
    provider: ProviderType::Openstack,
    key: Key::None,
    host: "server",
    container: None,
    front: "floating_ip",
    rules: Some("security_group"),
    address_fact: "floating_ip",
    attempt: &[
        make("create_security_group", "security_group"),
        make("create_port", "port").after(&["create_security_group"]).needs(&["security_group"]),
        make("create_volume", "volume").waits(600).recreate("create_volume"),
        make("create_server", "server")
            .after(&["create_port", "create_volume"])
            .needs(&["port", "volume"])
            .boots("wait_server")
            .judged(),
        on("create_rule", Step::Configure, Effect::Rule, "security_group").after(&["create_security_group"]),
        operation("create_floating_ip", Step::Configure, Effect::Make, "floating_ip")
            .after(&["create_port"])
            .needs(&["port"])
            .judged(),
        on("wait_server", Step::Activate, Effect::WaitHost, "server")
            .after(&["create_server"])
            .waits(600)
            .recreate("create_server")
            .judged(),
        probe("probe_ssh", Way::Ssh, "server"),
        probe("probe_http", Way::Http, "server"),
        probe("probe_https", Way::Https, "server"),
        probe("probe_tcp", Way::Tcp, "server"),
    ],
    suspend: &[on("stop_server", Step::Activate, Effect::PowerOff, "server").waits(300)],
    reactivate: &[
        on("start_server", Step::Activate, Effect::PowerOn, "server").waits(600).boots("start_server"),
        probe("probe_ssh", Way::Ssh, "server"),
        probe("probe_http", Way::Http, "server"),
        probe("probe_https", Way::Https, "server"),
        probe("probe_tcp", Way::Tcp, "server"),
    ],
    unavailable: &[("disk_used_gb", "server diagnostics do not tell how full a volume is")],
};

const VMWARE: Played = Played {
    provider: ProviderType::Vmware,
    key: Key::Name,
    host: "vm",
    container: None,
    front: "vm",
    rules: None,
    address_fact: "address",
    attempt: &[
        make("clone_vm", "vm").waits(900).judged(),
        on("reconfigure_vm", Step::Configure, Effect::Change, "vm").after(&["clone_vm"]).judged(),
        on("power_on_vm", Step::Activate, Effect::PowerOn, "vm").after(&["clone_vm"]).boots("wait_address"),
        on("wait_address", Step::Activate, Effect::WaitHost, "vm").after(&["power_on_vm"]).waits(600).judged(),
        probe("probe_ssh", Way::Ssh, "vm"),
        probe("probe_http", Way::Http, "vm"),
        probe("probe_https", Way::Https, "vm"),
        probe("probe_tcp", Way::Tcp, "vm"),
    ],
    suspend: &[on("shutdown_vm", Step::Activate, Effect::PowerOff, "vm").waits(300)],
    reactivate: &[
        on("power_on_vm", Step::Activate, Effect::PowerOn, "vm").boots("wait_address"),
        on("wait_address", Step::Activate, Effect::WaitHost, "vm").after(&["power_on_vm"]).waits(600),
        probe("probe_ssh", Way::Ssh, "vm"),
        probe("probe_http", Way::Http, "vm"),
        probe("probe_https", Way::Https, "vm"),
        probe("probe_tcp", Way::Tcp, "vm"),
    ],
    unavailable: &[
        ("network_rx_bytes", "quick statistics have no network figures"),
        ("network_tx_bytes", "quick statistics have no network figures"),
    ],
};

const PROXMOX: Played = Played {
    provider: ProviderType::Proxmox,
    key: Key::Number,
    host: "vm",
    container: None,
    front: "vm",
    rules: Some("vm"),
    address_fact: "address",
    attempt: &[
        make("clone_vm", "vm").waits(900).judged(),
        on("configure_vm", Step::Configure, Effect::Change, "vm").after(&["clone_vm"]).judged(),
        on("resize_disk", Step::Configure, Effect::Change, "vm").after(&["configure_vm"]),
        on("create_rule", Step::Configure, Effect::Rule, "vm").after(&["configure_vm"]),
        on("start_vm", Step::Activate, Effect::PowerOn, "vm").after(&["clone_vm"]).boots("wait_address"),
        on("wait_address", Step::Activate, Effect::WaitHost, "vm").after(&["start_vm"]).waits(600).judged(),
        probe("probe_ssh", Way::Ssh, "vm"),
        probe("probe_http", Way::Http, "vm"),
        probe("probe_https", Way::Https, "vm"),
        probe("probe_tcp", Way::Tcp, "vm"),
    ],
    suspend: &[on("shutdown_vm", Step::Activate, Effect::PowerOff, "vm").waits(300)],
    reactivate: &[
        on("start_vm", Step::Activate, Effect::PowerOn, "vm").boots("wait_address"),
        on("wait_address", Step::Activate, Effect::WaitHost, "vm").after(&["start_vm"]).waits(600),
        probe("probe_ssh", Way::Ssh, "vm"),
        probe("probe_http", Way::Http, "vm"),
        probe("probe_https", Way::Https, "vm"),
        probe("probe_tcp", Way::Tcp, "vm"),
    ],
    unavailable: &[("disk_used_gb", "needs the guest agent's file system information")],
};

const fn namespaced(name: &'static str, kind: &'static str) -> Operation {
    make(name, kind).after(&["create_namespace"]).needs(&["namespace"])
}

const NAMESPACE: &[Operation] = &[
    make("create_namespace", "namespace").judged(),
    namespaced("create_resource_quota", "resource_quota"),
    namespaced("create_limit_range", "limit_range"),
    namespaced("create_network_policy", "network_policy"),
    namespaced("create_role_binding", "role_binding"),
    on("grant_access", Step::Configure, Effect::Access, "namespace").after(&["create_role_binding"]).judged(),
    on("wait_admission", Step::Activate, Effect::Check, "namespace").after(&["create_namespace"]).waits(120).judged(),
    on("check_pod", Step::Verify, Effect::Check, "namespace").waits(120).judged(),
    on("check_isolation", Step::Verify, Effect::Check, "namespace").waits(120).judged(),
];

const KUBERNETES: Played = Played {
    provider: ProviderType::Kubernetes,
    key: Key::Name,
    host: "namespace",
    container: Some("namespace"),
    front: "namespace",
    rules: None,
    address_fact: "namespace",
    attempt: NAMESPACE,
    suspend: &[on("scale_down", Step::Activate, Effect::PowerOff, "namespace").waits(300)],
    reactivate: &[
        on("scale_up", Step::Activate, Effect::PowerOn, "namespace").waits(300).boots("scale_up"),
        on("check_pod", Step::Verify, Effect::Check, "namespace").waits(120),
        on("check_isolation", Step::Verify, Effect::Check, "namespace").waits(120),
    ],
    unavailable: &[
        ("disk_used_gb", "needs the node's volume statistics"),
        ("network_rx_bytes", "the metrics API has no network figures"),
        ("network_tx_bytes", "the metrics API has no network figures"),
    ],
};

const OPENSHIFT: Played = Played { provider: ProviderType::Openshift, ..KUBERNETES };

const ARGOCD: Played = Played {
    provider: ProviderType::Argocd,
    key: Key::Name,
    host: "application",
    container: None,
    front: "application",
    rules: None,
    address_fact: "address",
    attempt: &[
        make("create_application", "application").judged(),
        on("sync", Step::Configure, Effect::PowerOn, "application").after(&["create_application"]).boots("wait_healthy").judged(),
        on("wait_healthy", Step::Activate, Effect::WaitHost, "application").after(&["sync"]).waits(300).judged(),
        on("probe_url", Step::Verify, Effect::ProbeUrl, "application").waits(300).judged(),
    ],
    suspend: &[on("scale_down", Step::Activate, Effect::PowerOff, "application").waits(300)],
    reactivate: &[
        on("scale_up", Step::Activate, Effect::PowerOn, "application").boots("wait_healthy"),
        on("wait_healthy", Step::Activate, Effect::WaitHost, "application").after(&["scale_up"]).waits(300),
        on("probe_url", Step::Verify, Effect::ProbeUrl, "application").waits(300),
    ],
    unavailable: &[
        ("disk_used_gb", "needs the node's volume statistics"),
        ("network_rx_bytes", "the metrics API has no network figures"),
        ("network_tx_bytes", "the metrics API has no network figures"),
    ],
};

const MANUAL: Played = Played {
    provider: ProviderType::Manual,
    key: Key::None,
    host: "reservation",
    container: None,
    front: "",
    rules: None,
    address_fact: "address",
    attempt: &[
        make("reserve", "reservation").judged(),
        on("await_input", Step::Configure, Effect::Person, "reservation").after(&["reserve"]),
        on("mark_active", Step::Activate, Effect::Change, "reservation").after(&["await_input"]).judged(),
        on("probe_url", Step::Verify, Effect::ProbeUrl, "reservation").waits(300).judged(),
    ],
    suspend: &[on("suspend_service", Step::Activate, Effect::PowerOff, "reservation").waits(300)],
    reactivate: &[
        on("resume_service", Step::Activate, Effect::PowerOn, "reservation").waits(300).boots("resume_service"),
        on("probe_url", Step::Verify, Effect::ProbeUrl, "reservation").waits(300),
    ],
    unavailable: &[
        ("cpu_percent", "a vendor's service has no figures"),
        ("memory_used_gb", "a vendor's service has no figures"),
        ("disk_used_gb", "a vendor's service has no figures"),
        ("network_rx_bytes", "a vendor's service has no figures"),
        ("network_tx_bytes", "a vendor's service has no figures"),
    ],
};

/// Everything that can be played.
const ALL: &[Played] = &[OPENSTACK, VMWARE, PROXMOX, KUBERNETES, OPENSHIFT, ARGOCD, MANUAL];
