//! Policy rules, and routes of other tables than the main one.

use std::net::IpAddr;

use corten_sys::netlink::Message;
use rustix::io::Errno;

use super::message::{self, RouteCopy, Rule};
use super::{Link, Links, NewRoute, failed};
use crate::Error;

impl Links {
    /// The rules of a family, in the order in which the kernel asks them.
    pub fn rules(&mut self, v4: bool) -> Result<Vec<Rule>, Error> {
        self.socket
            .dump(message::list_rules(v4), |all: &mut Vec<_>, r| {
                all.extend(message::read_rule(&r));
            })
            .map_err(failed("list policy rules"))
    }

    /// Looks up what comes from `source` in `table`; a rule that is there already stays alone.
    pub fn add_rule(&mut self, source: IpAddr, table: u32) -> Result<(), Error> {
        self.create(
            message::new_rule(source, table),
            format!("add the rule from {source} to table {table}"),
        )
    }

    /// Deletes the rule; one that has gone is a success.
    pub fn delete_rule(&mut self, rule: &Rule) -> Result<(), Error> {
        let Some(source) = rule.source else {
            return Ok(());
        };
        let message = message::delete_rule(source.address(), rule.table, rule.priority);
        match self.socket.request(message) {
            Err(e) if e.errno() != Some(Errno::NOENT) => {
                Err(failed(format!("delete the rule from {source}"))(e))
            }
            _ => Ok(()),
        }
    }

    /// Every route of a family, of all tables, whole.
    pub fn route_copies(&mut self, v4: bool) -> Result<Vec<RouteCopy>, Error> {
        self.socket
            .dump(message::list_routes(v4), |all: &mut Vec<_>, r| {
                all.extend(message::copy_route(&r));
            })
            .map_err(failed("list routes"))
    }

    pub fn put_route(&mut self, route: &RouteCopy, table: u32) -> Result<(), Error> {
        self.socket
            .request(message::put_route(route, table))
            .map_err(failed(format!("add a route to table {table}")))
    }

    /// Deletes the route; one that has gone is a success.
    pub fn delete_route(&mut self, route: &RouteCopy) -> Result<(), Error> {
        match self.socket.request(message::delete_route(route)) {
            Err(e) if e.errno() != Some(Errno::SRCH) => {
                let table = route.entry.table;
                Err(failed(format!("delete a route of table {table}"))(e))
            }
            _ => Ok(()),
        }
    }

    /// Adds routes through a link; one that is there is left.
    pub fn add_routes(&mut self, link: &Link, routes: &[NewRoute]) -> Result<(), Error> {
        for route in routes {
            let message: Message = message::new_route(route);
            let action = format!("add the route to {} through {}", route.dst, link.name);
            self.create(message, action)?;
        }
        Ok(())
    }
}
