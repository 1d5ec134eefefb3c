//! Configuration: precedence, faults, and the generated page.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (OsString, OsString)> {
    let owned: Vec<_> = pairs.iter().map(|(n, v)| (OsString::from(n), OsString::from(v))).collect();
    owned.into_iter()
}

fn faults_of(text: &str) -> Vec<String> {
    let mut loader = Loader::default();
    loader.text(Path::new("provisor.toml"), text);
    loader.faults.iter().map(ToString::to_string).collect()
}

fn load(text: &str, variables: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, Vec<Fault>> {
    let name = format!("provisor-config-test-{}-{:?}", std::process::id(), std::thread::current().id());
    let path = std::env::temp_dir().join(name.replace(['(', ')'], ""));
    std::fs::write(&path, text).unwrap();
    let flags = flags.iter().map(|(k, v)| ((*k).to_owned(), format!("--{k}"), (*v).to_owned())).collect();
    let loaded = Config::load_from(&Asked { file: Some(path.clone()), flags }, environment(variables));
    std::fs::remove_file(path).unwrap();
    loaded
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let file = "stuck_after_seconds = 1\n[worker]\nlease_seconds = 2.5\nshutdown_seconds = 3\n";
    let variables = [("PROVISOR_WORKER__LEASE_SECONDS", "4.5"), ("PROVISOR_WORKER__SHUTDOWN_SECONDS", "5"), ("HOME", "x")];
    let settings = load(file, &variables, &[("worker.shutdown_seconds", "6.25")]).unwrap().settings();
    assert_eq!(settings.stuck_after, Duration::from_secs(1));
    assert_eq!(settings.lease, Duration::from_millis(4500));
    assert_eq!(settings.shutdown, Duration::from_millis(6250));
    assert_eq!(settings.worker_concurrency, 256);
}

#[test]
fn the_database_and_the_key_follow_the_data_folder() {
    let settings = load("", &[("PROVISOR_DATA__DIR", "elsewhere")], &[]).unwrap().settings();
    assert_eq!(settings.database, Database::Sqlite(PathBuf::from("elsewhere/provisor.db")));
    assert_eq!(settings.key_file, PathBuf::from("elsewhere/secrets.key"));
}

#[test]
fn all_faults_of_a_file_come_at_once_with_their_lines() {
    let found = faults_of("[worker]\nlease_secnds = 1\nconcurrency = \"many\"\nshutdown_seconds = -1\n[log]\nformat = \"xml\"\n");
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(
        found.iter().any(|f| f.contains("provisor.toml:2") && f.contains("did you mean `worker.lease_seconds`")),
        "{found:?}"
    );
    assert!(found.iter().any(|f| f.contains("provisor.toml:3") && f.contains("must be a number")), "{found:?}");
    assert!(found.iter().any(|f| f.contains("provisor.toml:4") && f.contains("at least 0")), "{found:?}");
    assert!(found.iter().any(|f| f.contains("\"xml\"") && f.contains("text, json")), "{found:?}");
}

#[test]
fn broken_toml_names_its_line() {
    let found = faults_of("[worker]\nlease_seconds = = 1\n");
    assert!(found.iter().all(|f| f.contains("provisor.toml:2")) && !found.is_empty(), "{found:?}");
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest_known_one() {
    let faults = load("", &[("PROVISOR_DATABSE__URL", "sqlite://x")], &[]).unwrap_err();
    assert!(faults[0].message.contains("PROVISOR_DATABASE__URL"), "{}", faults[0]);
    assert!(load("", &[("PROVISOR_SERVER", "x"), ("PROVISOR_TOKEN", "y")], &[]).is_ok());
}

#[test]
fn service_links_of_kubernetes_are_not_ours_and_are_told() {
    let config = load("", &[("PROVISOR_SERVICE_HOST", "10.0.0.1"), ("PROVISOR_PORT_8620_TCP", "tcp://x")], &[]).unwrap();
    assert_eq!(config.foreign, ["PROVISOR_PORT_8620_TCP", "PROVISOR_SERVICE_HOST"]);
}

#[test]
fn what_is_not_offered_is_refused_by_name() {
    let faults = load("[redis]\nurl = \"redis://u:secret@x\"\n", &[("PROVISOR_DATABASE__URL", "mysql://u:secret@db/x")], &[]);
    let text: Vec<String> = faults.unwrap_err().iter().map(ToString::to_string).collect();
    assert!(text[0].contains("redis.url is not offered by this version"), "{text:?}");
    assert!(text[1].contains("must be sqlite:// and a path, or postgres://"), "{text:?}");
    assert!(!text.iter().any(|t| t.contains("secret")), "{text:?}");
}

#[test]
fn the_password_of_a_database_is_never_shown() {
    for url in ["postgres://u:hunter2@db:5433/x", "postgresql://u@db/x?password=hunter2&application_name=a"] {
        let config = load("", &[("PROVISOR_DATABASE__URL", url)], &[]).unwrap();
        let settings = config.settings();
        assert_eq!(settings.database, Database::Postgres(url.to_owned()));
        for shown in [config.show().to_string(), format!("{settings:?}"), settings.database.to_string()] {
            assert!(shown.contains("db") && !shown.contains("hunter2"), "{shown}");
        }
    }
    let wrong = [
        "postgres://u:hun@ter2@db/x",
        "postgres://u:hunter2@/x",
        "postgres://u:hunter2@db:port/x",
        "postgres://u:hunter2@db/x?no=1",
        "postgres://db/x?password=hunter2&no=1",
    ];
    for url in wrong {
        let text = load("", &[("PROVISOR_DATABASE__URL", url)], &[]).unwrap_err()[0].to_string();
        assert!(!text.contains("hunter2") && !text.contains("ter2@") && !text.contains("hun@"), "{text}");
    }
}

#[test]
fn secrets_are_not_shown() {
    let config = load("", &[("PROVISOR_AUTH__BOOTSTRAP_TOKEN", "pvr_abc")], &[]).unwrap();
    assert!(!config.show().to_string().contains("pvr_abc"));
    assert_eq!(config.settings().bootstrap_token.as_deref(), Some("pvr_abc"));
}

#[test]
fn every_default_is_a_valid_value() {
    for key in KEYS {
        let Some(text) = key.default else { continue };
        assert!(value::read(key.kind, &value::Raw::Text(text.to_owned()), false).is_ok(), "{}", key.name);
    }
    assert!(markdown().contains("`PROVISOR_STUCK_AFTER_SECONDS`"));
}
