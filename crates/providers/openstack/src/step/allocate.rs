//! Allocate: security group, port, boot volume, server.
//!
//! The port and the volume are made here and not by Nova: the port gives the floating IP something to stand on
//! before the server exists, Nova gives up on volumes after three minutes, and what Nova makes by itself carries no
//! tag. The server therefore boots from our volume and leaves it when it goes.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use provisor_core::workflow::Made;
use provisor_core::workflow::call::Work;
use provisor_core::{Class, Failure};
use provisor_provider::Progress;
use serde_json::{Map, Value, json};

use super::{has, made, running, tag, vanished};
use crate::Openstack;
use crate::catalog::Service;
use crate::classify;
use crate::client::Call;
use crate::objects::{Object, TAG_KEY, text};
use crate::resolve::{self, Role};
use crate::user_data;

const SERVER_TIMEOUT: Duration = Duration::from_mins(1);

/// A security group of the attempt's own. Neutron adds its rules for outgoing traffic.
pub(crate) async fn create_security_group(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    create(cloud, work, Object::SecurityGroup, json!({"name": work.name, "description": tag(work)?})).await
}

/// A port on the tenant network.
pub(crate) async fn create_port(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    if let Some(made) = already(work) {
        return Ok(Progress::Done(made));
    }
    let network = resolve::network(&cloud.client, &cloud.settings, Role::Tenant).await?;
    let body = json!({
        "name": work.name, "description": tag(work)?, "network_id": network,
        "security_groups": [has(work, Object::SecurityGroup)?],
    });
    create(cloud, work, Object::Port, body).await
}

/// The boot volume from the image: asked for once, then looked at until it is available.
pub(crate) async fn create_volume(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    if let Some(id) = &work.provider_id {
        return volume_state(cloud, id, work.try_number).await;
    }
    let size = work.spec.size.unwrap_or_default();
    let asked = work.spec.image.as_deref().unwrap_or_default();
    let image = resolve::image(&cloud.client, &cloud.settings, asked).await?;
    resolve::check_fit(&image, size)?;
    let mut body = json!({
        "name": work.name, "size": size.storage_gb.max(1), "imageRef": image.id,
        "metadata": {TAG_KEY: tag(work)?},
    });
    put(&mut body, "volume_type", cloud.settings.volume_type.as_deref());
    put(&mut body, "availability_zone", cloud.settings.volume_availability_zone.as_deref());
    let answer = Object::Volume.create(&cloud.client, body).await.map_err(|e| classify::failure(&e))?;
    let made = made(Object::Volume, &answer)?;
    Ok(running(made, text(&answer, "status").unwrap_or("creating")))
}

async fn volume_state(cloud: &Openstack, id: &str, try_number: u32) -> Result<Progress, Failure> {
    let read = Object::Volume.read(&cloud.client, id).await.map_err(|e| classify::failure(&e))?;
    let Some(volume) = read else { return Err(vanished(Object::Volume, id)) };
    let status = text(&volume, "status").unwrap_or("unknown");
    let mut made = Made { provider_id: Some(id.to_owned()), ..Made::default() };
    if let Some(image) = volume.pointer("/volume_image_metadata/image_name").and_then(Value::as_str) {
        made.facts.insert("image".to_owned(), image.to_owned());
    }
    match status {
        "available" | "in-use" | "reserved" => Ok(Progress::Done(made)),
        "deleting" => Err(vanished(Object::Volume, id)),
        bad if bad.starts_with("error") => {
            let (event, message) = volume_message(cloud, id).await;
            Err(classify::volume_fault(id, &event, &message, try_number))
        }
        _ => Ok(running(made, status)),
    }
}

/// Cinder tells users why a volume failed in messages beside it; not being able to read them hides nothing else.
async fn volume_message(cloud: &Openstack, id: &str) -> (String, String) {
    let call = Call::get(Service::Volume, "/messages").query("resource_uuid", id);
    let answer = cloud.client.call(call).await.unwrap_or_default();
    let last = answer.get("messages").and_then(Value::as_array).and_then(|list| list.first()).cloned();
    let last = last.unwrap_or_default();
    let field = |key, default: &str| text(&last, key).unwrap_or(default).to_owned();
    (field("event_id", ""), field("user_message", "Cinder gives no reason"))
}

/// The server. Done once Nova has taken it on; that it runs is seen in `wait_server`.
pub(crate) async fn create_server(cloud: &Openstack, work: &Work) -> Result<Progress, Failure> {
    if let Some(made) = already(work) {
        return Ok(Progress::Done(made));
    }
    let size = work.spec.size.unwrap_or_default();
    let flavor = resolve::flavor(&cloud.client, &cloud.settings, size).await?;
    let sealed = work.spec.user_data.as_ref();
    let clear = sealed.map(|sealed| cloud.open.open(sealed)).transpose()?;
    let user_data = user_data::compose(&work.spec.ssh_keys, clear.as_deref()).map(|text| STANDARD.encode(text));
    let mut body = json!({
        "name": work.name,
        "flavorRef": flavor.id,
        "networks": [{"port": has(work, Object::Port)?}],
        "block_device_mapping_v2": [{
            "boot_index": 0, "uuid": has(work, Object::Volume)?, "source_type": "volume",
            "destination_type": "volume", "delete_on_termination": false,
        }],
        "metadata": metadata(work)?,
        "tags": [tag(work)?],
        "description": format!("{} of tenant {}", work.spec.name, work.spec.tenant),
    });
    put(&mut body, "availability_zone", cloud.settings.availability_zone.as_deref());
    put(&mut body, "user_data", user_data.as_deref());
    put(&mut body, "key_name", cloud.settings.key_pair.as_deref());
    if let (Value::Object(map), true) = (&mut body, cloud.settings.config_drive) {
        map.insert("config_drive".to_owned(), json!(true));
    }
    let call = Object::Server.creation(body).within(SERVER_TIMEOUT).hiding(user_data);
    let answer = cloud.client.call(call).await.map_err(|e| classify::failure(&e))?;
    let mut made = made(Object::Server, &Object::Server.inside(answer))?;
    made.facts.insert("flavor".to_owned(), flavor.words(size));
    Ok(Progress::Done(made))
}

/// The request's labels, and above them what marks the server as ours.
fn metadata(work: &Work) -> Result<Value, Failure> {
    let labels = work.spec.labels.iter().map(|(key, value)| (key.clone(), json!(value)));
    let mut all: Map<String, Value> = labels.collect();
    all.insert(TAG_KEY.to_owned(), json!(tag(work)?));
    all.insert("provisor_request".to_owned(), json!(work.request.to_string()));
    Ok(Value::Object(all))
}

fn put(body: &mut Value, key: &str, value: Option<&str>) {
    if let (Value::Object(map), Some(value)) = (body, value) {
        map.insert(key.to_owned(), json!(value));
    }
}

/// What a former call of this operation already made.
pub(super) fn already(work: &Work) -> Option<Made> {
    work.provider_id.as_ref().map(|id| Made { provider_id: Some(id.clone()), ..Made::default() })
}

/// Makes an object that is complete as soon as it is answered.
async fn create(cloud: &Openstack, work: &Work, object: Object, body: Value) -> Result<Progress, Failure> {
    if let Some(made) = already(work) {
        return Ok(Progress::Done(made));
    }
    let answer = object.create(&cloud.client, body).await.map_err(|e| classify::failure(&e))?;
    made(object, &answer).map(Progress::Done)
}

/// Refuses what no OpenStack can serve, before anything is asked.
pub(crate) fn check(spec: &provisor_core::Spec) -> Result<(), Failure> {
    let refuse = |what: &str| Err(Failure::new(Class::Permanent, "spec_not_servable", what.to_owned()));
    if spec.kind != provisor_core::Kind::Vps {
        return refuse("OpenStack clusters serve kind vps only");
    }
    if spec.image.is_none() || spec.size.is_none() {
        return refuse("a vps needs size and image");
    }
    Ok(())
}
