//! How fast a link sends, and where what it receives goes.

use corten_spec::Cidr;
use rustix::io::Errno;

use super::message::{self, Qdisc, ROOT, Side};
use super::{Link, Links, Rate, failed};
use crate::Error;

/// Which of a link's traffic a rate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion<'a> {
    All,
    /// What has this side in one of these subnets.
    Only(Side, &'a [Cidr]),
    /// What has not.
    Not(Side, &'a [Cidr]),
}

impl Links {
    /// Holds what the link sends to a rate, in the place of any other shaper that it has.
    pub fn shape(&mut self, link: &Link, rate: Rate, portion: Portion<'_>) -> Result<(), Error> {
        self.drop_qdisc(link, message::delete_root(link.index))?;
        let messages = match portion {
            Portion::All => vec![message::new_tbf(link.index, rate)],
            Portion::Only(side, subnets) => message::new_htb(link.index, rate, side, subnets, true),
            Portion::Not(side, subnets) => message::new_htb(link.index, rate, side, subnets, false),
        };
        self.all(messages, |_| {
            format!("limit the rate of link {}", link.name)
        })
    }

    /// Sends what `link` receives through `target`.
    pub fn redirect(&mut self, link: &Link, target: &Link) -> Result<(), Error> {
        self.drop_qdisc(link, message::delete_ingress(link.index))?;
        self.all(message::redirect(link.index, target.index), |_| {
            format!("send what {} receives through {}", link.name, target.name)
        })
    }

    fn drop_qdisc(
        &mut self,
        link: &Link,
        message: corten_sys::netlink::Message,
    ) -> Result<(), Error> {
        match self.socket.request(message) {
            // None there; EINVAL for an ingress queue, ENOENT for a root that is the default.
            Err(e) if !matches!(e.errno(), Some(Errno::NOENT | Errno::INVAL | Errno::NODEV)) => {
                Err(failed(format!("remove the queue of link {}", link.name))(e))
            }
            _ => Ok(()),
        }
    }

    /// What a link's shaper is to a rate for all of its traffic: `None` if it has none of ours.
    pub fn shaper(&mut self, link: &Link) -> Result<Option<Shaper>, Error> {
        let all: Vec<(u32, Qdisc)> = self
            .socket
            .dump(message::list_qdiscs(link.index), |all: &mut Vec<_>, r| {
                all.extend(message::read_qdisc(&r));
            })
            .map_err(failed(format!("list the queues of link {}", link.name)))?;
        let ours = |q: &&(u32, Qdisc)| q.0 == link.index && q.1.handle == ROOT;
        Ok(all.iter().find(ours).map(|(_, q)| Shaper(q.clone())))
    }
}

/// What holds a link to its rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shaper(Qdisc);

impl Shaper {
    /// Whether it holds to this rate: for all traffic, or (`in_part`) for some.
    pub fn is(&self, rate: Rate, in_part: bool) -> bool {
        match in_part {
            true => self.0.kind == "htb",
            false => self.0.kind == "tbf" && self.0.bucket == Some(rate.bucket()),
        }
    }
}

impl std::fmt::Display for Shaper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.bucket {
            Some(bucket) => write!(f, "{} bytes a second", bucket.rate),
            None => write!(f, "by {}", self.0.kind),
        }
    }
}
