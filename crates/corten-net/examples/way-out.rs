//! The way out of a namespace, for a user who may not touch the host's network:
//! `way-out start FOLDER PID [host-loopback]`, `way-out find FOLDER`, `way-out stop FOLDER`. With a
//! further argument `in FOLDER` programs are looked for there alone.

use std::process::ExitCode;

use corten_net::wayout::{Target, WayOut};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let programs = args
        .iter()
        .position(|a| a == "in")
        .map(|at| args.split_off(at));
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some(folder) = words.get(1) else {
        return ExitCode::from(2);
    };
    let way_out = match &programs {
        Some(p) => {
            WayOut::with_programs_in(folder.as_ref(), p[1..].iter().map(Into::into).collect())
        }
        None => WayOut::new(folder.as_ref()),
    };
    let done = match words[..] {
        ["start", _, pid, ref more @ ..] => way_out
            .start(&Target {
                pid: pid.parse().unwrap_or(0),
                ipv6: false,
                host_loopback: more.contains(&"host-loopback"),
            })
            .map(|running| println!("{} {}", running.driver.as_str(), running.pid)),
        ["find", _] => way_out.find().map(|found| match found {
            Some(running) => println!("{} {}", running.driver.as_str(), running.pid),
            None => println!("none"),
        }),
        ["stop", _] => way_out.stop(),
        _ => return ExitCode::from(2),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}
