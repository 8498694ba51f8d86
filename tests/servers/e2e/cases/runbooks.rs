//! The pages that need a gateway and do not change it: each command run in its order, against the
//! gateway under test.

use std::fs;
use std::process::Command;

use crate::page;
use crate::world::{Case, Need, World};

pub(crate) fn cases() -> Vec<Case> {
    [
        Case::new("runbooks::a_401_that_nobody_understands", |world| {
            let page = include_str!("../../../../docs/runbooks/unexplained-401.md");
            walk(world, page, 4);
        }),
        Case::new("runbooks::keycloak_is_down", |world| {
            let page = include_str!("../../../../docs/runbooks/keycloak-down.md");
            walk(world, page, 3);
        }),
        Case::new("runbooks::the_hit_rate_is_low", |world| {
            let page = include_str!("../../../../docs/runbooks/hit-rate-low.md");
            walk(world, page, 1);
        }),
        Case::new("runbooks::the_audit_log", |world| {
            walk(world, include_str!("../../../../docs/audit.md"), 1);
        }),
        Case::new("runbooks::the_metrics", |world| {
            walk(world, include_str!("../../../../docs/metrics.md"), 0);
        })
        .needs(Need::OwnEnvoy),
    ]
    .into_iter()
    .map(|case| case.needs(Need::LogFile))
    .collect()
}

/// Runs a page that has at least so many answers, in a folder with this run's `.run`. The key in
/// question has expired.
fn walk(world: &World, page: &str, answers: usize) {
    let steps = page::steps(page);
    let expecting = steps.iter().filter(|step| step.expected.is_some());
    assert!(expecting.count() >= answers, "the page's answers are found");
    let folder = world.folder().join("runbook");
    fs::create_dir_all(&folder).expect("a folder");
    std::os::unix::fs::symlink(world.folder(), folder.join(".run")).expect("a link");
    fs::write(folder.join("key.txt"), &world.expired_api_key).expect("a file");
    let mut shell = Command::new("bash");
    let tool = crate::tool::path();
    let tool = tool.parent().expect("a folder").display();
    let path = std::env::var("PATH").expect("a path");
    shell.env("PATH", format!("{tool}:{path}"));
    page::run(&steps, &folder, shell, crate::secrets::redact);
    // It holds a key.
    fs::remove_dir_all(&folder).expect("the folder goes");
}
