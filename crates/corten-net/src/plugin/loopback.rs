//! `loopback`: sets the container's `lo` up.

use corten_spec::Cidr;
use corten_spec::cni::{CniResult, Interface, IpConfig};

use super::{Request, Verb};
use crate::Error;
use crate::link::{Links, netns};

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    match request.verb {
        Verb::Add => add(request).map(Some),
        Verb::Del => del(request).map(|()| None),
        Verb::Check => check(request).map(|()| None),
        Verb::Gc | Verb::Status => Ok(None),
    }
}

fn add(request: &Request<'_>) -> Result<CniResult, Error> {
    let file = netns::open(request.netns)?;
    let addresses = netns::inside(&file, request.netns, || {
        let mut links = Links::open()?;
        let Some(lo) = links.by_name("lo")? else {
            return Ok(Vec::new());
        };
        links.set_up(&lo)?;
        // One of each family, as the reference plugin tells them.
        let all = links.addresses(&lo)?;
        let first = |v4| {
            let own = |a: &&Cidr| a.is_ipv4() == v4 && a.address().is_loopback();
            all.iter().find(own).copied()
        };
        Ok([first(true), first(false)].into_iter().flatten().collect())
    })?;
    // In a chain the earlier result goes on as it is: `lo` is none of its interfaces.
    if let Some(previous) = request.previous()? {
        return Ok(previous);
    }
    Ok(CniResult {
        interfaces: vec![Interface {
            name: "lo".into(),
            mac: "00:00:00:00:00:00".into(),
            sandbox: request.netns.display().to_string(),
            ..Default::default()
        }],
        ips: addresses
            .into_iter()
            .map(|address: Cidr| IpConfig {
                interface: Some(0),
                address,
                gateway: None,
            })
            .collect(),
        ..Default::default()
    })
}

fn del(request: &Request<'_>) -> Result<(), Error> {
    let Some(file) = netns::open_if_there(request.netns)? else {
        return Ok(());
    };
    netns::inside(&file, request.netns, || {
        let mut links = Links::open()?;
        match links.by_name("lo")? {
            Some(lo) => links.set_down(&lo),
            None => Ok(()),
        }
    })
}

fn check(request: &Request<'_>) -> Result<(), Error> {
    let file = netns::open(request.netns)?;
    let up = netns::inside(&file, request.netns, || {
        Ok(Links::open()?.by_name("lo")?.is_some_and(|l| l.up))
    })?;
    if up {
        return Ok(());
    }
    Err(Error::Mismatch {
        what: "link lo".into(),
        found: "down".into(),
        wanted: "up".into(),
    })
}
