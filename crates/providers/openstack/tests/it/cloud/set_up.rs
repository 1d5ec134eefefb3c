//! Settings that a plain server does not need, each seen on the real one: an application credential, key pair, config
//! drive, zones, a volume type, and a suspend that shelves and locks.

use provisor_core::Class;
use provisor_provider::Action;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cloud::{environment, settings};
use crate::driver::{Attempt, connect, fresh, spec};
use crate::user::User;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_setting_of_a_server_holds_on_the_real_one() {
    let Some((endpoint, credentials)) = environment() else { return };
    let user = User::login(endpoint["auth_url"].as_str().expect("a URL"), &credentials).await;
    let name = format!("provisor-{:x}", fresh() & 0xffff_ffff);
    let (compute, volume) = (user.address(&["compute"]), user.address(&["block-storage", "volumev3"]));
    let body = json!({"application_credential": {"name": name}});
    let secrets = format!("{}/users/{}/application_credentials", user.identity, user.id);
    let made = user.ask(Method::POST, secrets.clone(), Some(body)).await["application_credential"].clone();
    let by_application = json!({"application_credential_id": made["id"], "application_credential_secret": made["secret"]});
    let types = user.ask(Method::GET, format!("{volume}/types"), None).await;
    let volume_type = types["volume_types"][0]["name"].as_str().expect("a volume type").to_owned();

    let mut settings = settings();
    for (key, value) in [
        ("availability_zone", json!("nova")),
        ("volume_availability_zone", json!("nova")),
        ("volume_type", json!(volume_type)),
        ("key_pair", json!(name)),
        ("config_drive", json!(true)),
        ("suspend", json!("shelve")),
        ("lock_suspended", json!(true)),
    ] {
        settings[key] = value;
    }
    let provider = connect(&endpoint, &by_application, &settings);
    // The key pair is missing yet, and the test says so by the setting's name.
    let checks = provider.test().await;
    let bad: Vec<&str> = checks.iter().filter(|c| !c.ok).map(|c| c.name.as_str()).collect();
    assert_eq!(bad, ["settings.key_pair"], "{checks:?}");
    user.ask(Method::POST, format!("{compute}/os-keypairs"), Some(json!({"keypair": {"name": name, "public_key": KEY}}))).await;
    let checks = provider.test().await;
    assert!(checks.iter().all(|check| check.ok), "{checks:?}");

    let mut attempt = Attempt::new(provider.clone(), spec(&json!({"ports": [22]})));
    let ran = life(&user, &mut attempt, &name, &volume_type, &volume).await;
    attempt.undo().await;
    let left = attempt.owned().await;
    user.ask(Method::DELETE, format!("{compute}/os-keypairs/{name}"), None).await;
    let id = made["id"].as_str().expect("an id");
    user.ask(Method::DELETE, format!("{secrets}/{id}"), None).await;
    ran.unwrap_or_else(|failed| panic!("{failed}"));
    assert_eq!(left, []);
    // What was revoked opens nothing any more, and says whose it was.
    let failure = connect(&endpoint, &by_application, &settings).identity().await.expect_err("revoked");
    assert_eq!((failure.class, failure.code.as_str()), (Class::Auth, "credentials_refused"), "{failure:?}");
}

/// A key that nobody has the other half of.
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJm1yq2Kk2o0m5sGm9nq0m8n3m8vJ0yq2Kk2o0m5sGm9 nobody";

/// Made, shelved and locked, and brought back; what is wrong is told, and the caller cleans up.
async fn life(user: &User, attempt: &mut Attempt, key_pair: &str, volume_type: &str, volume: &str) -> Result<(), String> {
    let provider = attempt.provider.clone();
    let expect = |what: &str, got: &Value, wanted: Value| {
        if *got == wanted { Ok(()) } else { Err(format!("{what} is {got}, not {wanted}")) }
    };
    let plan = provider.plan(&attempt.spec).map_err(|failure| format!("{failure:?}"))?;
    attempt.run(&plan).await.map_err(|failed| format!("{failed:?}"))?;
    let server = user.server(&attempt.resources["server"]).await;
    expect("key_name", &server["key_name"], json!(key_pair))?;
    expect("config_drive", &server["config_drive"], json!("True"))?;
    expect("availability zone", &server["OS-EXT-AZ:availability_zone"], json!("nova"))?;
    let disk = user.ask(Method::GET, format!("{volume}/volumes/{}", attempt.resources["volume"]), None).await;
    expect("volume type", &disk["volume"]["volume_type"], json!(volume_type))?;
    expect("volume's zone", &disk["volume"]["availability_zone"], json!("nova"))?;

    for (action, status, locked) in [(Action::Suspend, "SHELVED_OFFLOADED", true), (Action::Reactivate, "ACTIVE", false)] {
        let plan = provider.plan_action(action, &attempt.spec).map_err(|failure| format!("{failure:?}"))?;
        attempt.run(&plan).await.map_err(|failed| format!("{action:?}: {failed:?}"))?;
        let server = user.server(&attempt.resources["server"]).await;
        expect("status", &server["status"], json!(status))?;
        expect("lock", &server["locked"], json!(locked))?;
    }
    Ok(())
}
