//! PostgreSQL on a bind mount: what it wrote is there after everything of ours was killed.

use std::fs;
use std::os::unix::fs::chown;

use corten_testkit::registry::free_port;
use corten_testkit::{Image, Result, Sandbox, tool, wait};

use super::{SOON, sandbox};

const BIN: &str = "/usr/lib/postgresql/15/bin";

fn query(sandbox: &Sandbox, sql: &str) -> corten_testkit::Outcome {
    sandbox.corten(&[
        "exec", "-u", "postgres", "pg", "psql", "-h", "/tmp", "-At", "-c", sql,
    ])
}

fn ready(sandbox: &Sandbox) -> Result<()> {
    let probe = || (query(sandbox, "select 1").code == 0).then_some(());
    wait::until("the database", SOON, probe).inspect_err(|_| {
        eprintln!("{}", sandbox.corten(&["logs", "--tail", "20", "pg"]));
    })
}

#[test]
fn a_database_survives_a_kill_of_everything() -> Result<()> {
    let sandbox = sandbox()?;
    let image = sandbox.image(Image::Postgres)?;
    let run = |args: &[&str]| {
        let mut all = vec!["run", "--rm", "--network", "none"];
        all.extend(args);
        sandbox.corten(&all).ok()
    };
    let data = sandbox.files().join("data");
    fs::create_dir(&data).expect("folder");
    let uid: u32 = run(&[&image, "id", "-u", "postgres"])
        .parse()
        .expect("a uid");
    chown(&data, Some(uid), Some(uid)).expect("chown");
    let volume = format!("{}:/pg", data.display());
    let initdb = format!("{BIN}/initdb");
    run(&[
        "-u",
        "postgres",
        "-v",
        &volume,
        &image,
        &initdb,
        "-D",
        "/pg/data",
        "--auth=trust",
        "--no-sync",
    ]);

    let (port, server) = (free_port()?, format!("{BIN}/postgres"));
    let publish = format!("127.0.0.1:{port}:5432");
    let start = [
        "run", "-d", "--name", "pg", "-u", "postgres", "-v", &volume, "-p", &publish, &image,
        &server,
    ];
    let mut start = start.to_vec();
    start.extend([
        "-D",
        "/pg/data",
        "-c",
        "listen_addresses=*",
        "-c",
        "unix_socket_directories=/tmp",
    ]);
    sandbox.corten(&start).ok();
    ready(&sandbox)?;
    query(
        &sandbox,
        "create table t(n int); insert into t select generate_series(1, 10000)",
    )
    .ok();

    for pid in sandbox.processes() {
        // One may go with another.
        let _ = tool::call("kill", &["-KILL", &pid.to_string()]);
    }
    wait::until("everything to be gone", SOON, || {
        sandbox.processes().is_empty().then_some(())
    })?;
    let listed = sandbox.corten(&["ps"]).ok();
    assert!(
        !listed.contains("Up "),
        "a killed container is listed as running:\n{listed}"
    );
    sandbox.corten(&["start", "pg"]).ok();
    ready(&sandbox)?;
    assert_eq!(
        query(&sandbox, "select count(*), sum(n) from t").ok(),
        "10000|50005000"
    );
    sandbox.corten(&["stop", "pg"]).ok();
    sandbox.finish();
    Ok(())
}
