//! The caller as a command: `cni-caller add|renew|check|del|gc LIST CACHE CONTAINER NETNS`, LIST being the file of a
//! network configuration. GC keeps nothing. Published ports are tcp 8080 to 80, after `renew` 8081.

use std::path::Path;
use std::process::ExitCode;

use corten_net::Error;
use corten_net::cni::{Attachment, Caller, PortMapping, Protocol, load_file};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [verb, list, cache, container, netns] = args.as_slice() else {
        eprintln!("cni-caller add|renew|check|del|gc LIST CACHE CONTAINER NETNS");
        return ExitCode::from(2);
    };
    let port = if verb == "renew" { 8081 } else { 8080 };
    match run(
        verb,
        Path::new(list),
        Path::new(cache),
        (container, netns),
        port,
    ) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.chain());
            ExitCode::FAILURE
        }
    }
}

fn run(
    verb: &str,
    list: &Path,
    cache: &Path,
    (container, netns): (&str, &str),
    host_port: u16,
) -> Result<(), Error> {
    let list = load_file(list)?;
    let caller = Caller::new(Vec::new(), cache);
    let mut of = Attachment::new(container.parse().expect("a container's id"), netns);
    of.capabilities.port_mappings = vec![PortMapping {
        host_port,
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
    }];
    match verb {
        "add" => caller.add(&list, &of).map(drop),
        "renew" => caller.renew(&list, &of, "portmap"),
        "check" => caller.check(&list, &Attachment::new(of.container_id, of.netns)),
        "del" => caller.del(&list, &Attachment::new(of.container_id, of.netns)),
        "gc" => caller.gc(&list, &[]),
        other => panic!("{other} is no verb"),
    }
}
