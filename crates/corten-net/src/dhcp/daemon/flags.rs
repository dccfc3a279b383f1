//! The daemon's command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::super::protocol::SOCKET;

/// The flags of the daemon, those of the reference's.
#[derive(Debug, PartialEq, Eq)]
pub struct Flags {
    pub pidfile: Option<PathBuf>,
    /// Where the host's root is, for a daemon in a container.
    pub prefix: PathBuf,
    pub socket: PathBuf,
    pub timeout: Duration,
    pub resend_max: Duration,
    pub broadcast: bool,
    /// Ours: ends after so long without a lease, instead of never.
    pub idle: Option<Duration>,
    /// Ours: starts the daemon as nobody's child, and returns when it serves.
    pub detach: bool,
}

const USAGE: &str = "usage: dhcp daemon [-pidfile PATH] [-hostprefix PATH] [-socketpath PATH] \
                     [-timeout DURATION] [-resendmax DURATION] [-broadcast] [-idle DURATION] [-detach]";

impl Flags {
    pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut flags = Self {
            pidfile: None,
            prefix: PathBuf::new(),
            socket: SOCKET.into(),
            timeout: Duration::from_secs(10),
            resend_max: Duration::from_secs(62),
            broadcast: false,
            idle: None,
            detach: false,
        };
        let mut args = args.map(|a| a.to_string_lossy().into_owned());
        while let Some(arg) = args.next() {
            // As Go's: one dash or two, the value after `=` or as the next argument.
            let name = arg.trim_start_matches('-');
            if name.len() == arg.len() || arg.len() - name.len() > 2 {
                return Err(format!("{arg:?} is no flag; {USAGE}"));
            }
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let mut value = || {
                let value = value.clone().or_else(|| args.next());
                value.ok_or_else(|| format!("flag -{name} wants a value; {USAGE}"))
            };
            match name {
                "pidfile" => flags.pidfile = Some(value()?.into()),
                "hostprefix" => flags.prefix = value()?.into(),
                "socketpath" => flags.socket = value()?.into(),
                "timeout" => flags.timeout = duration(&value()?)?,
                "resendmax" => flags.resend_max = duration(&value()?)?,
                "idle" => flags.idle = Some(duration(&value()?)?),
                "detach" => flags.detach = true,
                "broadcast" => {
                    flags.broadcast = match arg.split_once('=').map(|(_, v)| v) {
                        None | Some("true" | "1") => true,
                        Some("false" | "0") => false,
                        Some(other) => {
                            return Err(format!("-broadcast={other} is neither; {USAGE}"));
                        }
                    }
                }
                _ => return Err(format!("flag -{name} is not known; {USAGE}")),
            }
        }
        Ok(flags)
    }
}

/// `10s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 10s or 1m30s; {USAGE}");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let letters = unit.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = unit.split_at(letters);
        let millis = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or_else(wrong)?);
        rest = tail;
    }
    match total.is_zero() {
        true => Err(wrong()),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::super::lease::below;
    use super::*;

    fn flags(args: &[&str]) -> Result<Flags, String> {
        Flags::parse(args.iter().map(Into::into))
    }

    #[test]
    fn flags_are_read_as_the_references() {
        let read = flags(&[
            "-pidfile=/run/x.pid",
            "--hostprefix",
            "/host",
            "-socketpath=/run/d.sock",
            "-timeout",
            "1m30s",
            "-resendmax=500ms",
            "-broadcast=true",
            "-idle=3s",
            "-detach",
        ])
        .unwrap();
        assert_eq!(read.pidfile, Some("/run/x.pid".into()));
        assert_eq!(read.timeout, Duration::from_secs(90));
        assert_eq!(read.resend_max, Duration::from_millis(500));
        assert!(read.broadcast && read.detach);
        assert_eq!(read.idle, Some(Duration::from_secs(3)));
        let socket = below(&read.prefix, &read.socket);
        assert_eq!(socket, Path::new("/host/run/d.sock"));
        for bad in [
            "daemon",
            "-timeout=5",
            "-timeout=0s",
            "-timeout",
            "-x",
            "-broadcast=maybe",
        ] {
            assert!(flags(&[bad]).is_err(), "{bad}");
        }
    }
}
