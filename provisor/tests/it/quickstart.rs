//! From nothing to running services.

use crate::house::{Done, Folder, command};

#[test]
fn quickstart_works_twice() {
    let folder = Folder::new();
    let run = || -> Done {
        command(&folder.0)
            .args(["quickstart", "--data", "q", "--listen", "127.0.0.1:0", "--exit-when-done"])
            .output()
            .unwrap()
            .into()
    };
    let first = run().exits(0);
    for text in ["provisor --data q list", "What happened to web", "ready in", "q/admin-token", "ssh://"] {
        assert!(first.out.contains(text), "{text}: {first:#?}");
    }
    let second = run().exits(0);
    assert!(second.out.contains("there already"), "{second:#?}");
}
