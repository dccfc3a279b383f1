//! `dummy`: a link inside that leads nowhere, to hold addresses.

use corten_spec::cni::CniResult;

use super::container::{
    Shared, Source, add_inside, check_inside, delete_inside, or_undo, prepare_inside,
};
use super::{Request, Verb};
use crate::Error;
use crate::link::{Kind, Links, NewLink, netns};

pub fn run(request: &Request<'_>) -> Result<Option<CniResult>, Error> {
    let shared = Shared::read(request, "dummy")?;
    shared.need_ipam("dummy")?;
    let delete = |request: &Request<'_>, undo| {
        shared.release(request, || delete_inside(request, "dummy", undo))
    };
    match request.verb {
        Verb::Add => or_undo(request, || add(request, &shared), |r| delete(r, true)).map(Some),
        Verb::Del => delete(request, false).map(|()| None),
        Verb::Check => {
            shared.forward(request)?;
            let previous = request.need_previous("dummy")?;
            check_inside(request, &previous, Some("dummy"), |_| Ok(())).map(|()| None)
        }
        Verb::Gc => {
            request.valid_attachments()?;
            shared.forward(request).map(|()| None)
        }
        Verb::Status => shared.forward(request).map(|()| None),
    }
}

fn add(request: &Request<'_>, shared: &Shared) -> Result<CniResult, Error> {
    let mut result = add_inside(request, Source::Ipam(shared), |inside| {
        let owner = request.owner();
        netns::inside(inside, request.netns, || {
            let mut links = Links::open()?;
            prepare_inside(&mut links, &owner)?;
            let link = NewLink {
                mac: Some(owner.mac("container")),
                ..NewLink::new(&owner.ifname, Kind::Dummy)
            };
            links.add_owned(&link, &owner.to_string())
        })
    })?;
    shared.override_dns(&mut result);
    Ok(result)
}
