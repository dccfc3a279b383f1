//! The help of each command, for people. One text a command: `corten-oci help COMMAND`, or `COMMAND --help`.

use std::ffi::OsString;

use super::{Failure, USAGE};

/// The text that is asked for by `--help` or `-h` among a command's arguments. Behind the id of `exec` and
/// `ps` it is a program's, or ps's.
pub(super) fn asked(command: &str, args: &[OsString]) -> Option<&'static str> {
    let text = of(command)?;
    let args = args.iter().filter_map(|a| a.to_str());
    let wanted = |a: &str| a == "--help" || a == "-h";
    let found = match command {
        "exec" | "ps" => args
            .take_while(|a| a.starts_with('-') && *a != "--")
            .any(wanted),
        _ => args.take_while(|a| *a != "--").any(wanted),
    };
    found.then_some(text)
}

/// `help [COMMAND]`
pub(super) fn help(args: &[OsString]) -> Result<u8, Failure> {
    let text = match args.first() {
        None => USAGE,
        Some(command) => {
            let command = command.to_string_lossy();
            of(&command).ok_or_else(|| Failure::Command(command.into_owned()))?
        }
    };
    print!("{text}");
    Ok(0)
}

fn of(command: &str) -> Option<&'static str> {
    let found = TEXTS.iter().find(|(name, _)| *name == command);
    found.map(|(_, text)| *text)
}

const TEXTS: [(&str, &str); 16] = [
    ("create", CREATE),
    ("run", RUN),
    ("start", START),
    ("exec", EXEC),
    ("state", STATE),
    ("list", LIST),
    ("ps", PS),
    ("kill", KILL),
    ("pause", PAUSE),
    ("resume", RESUME),
    ("update", UPDATE),
    ("events", EVENTS),
    ("delete", DELETE),
    ("features", FEATURES),
    ("spec", SPEC),
    ("help", HELP),
];

const CREATE: &str = "usage: corten-oci create [options] CONTAINER-ID

Makes a container from a bundle: a folder with a config.json and a root file system. Its namespaces, mounts and
limits are made and its first process waits; `start` lets that execute the program.

  -b, --bundle DIR        the bundle (default: the current folder)
  --console-socket PATH   a Unix socket to which the terminal's master is sent; needed if process.terminal is true
  --pidfd-socket PATH     a Unix socket to which a pidfd of the first process is sent
  --pid-file PATH         a file to which the first process's id is written
  --preserve-fds N        hand N descriptors on, from 3 up, after those of $LISTEN_FDS
  --no-pivot              change the root without pivot_root, where the host's root is an initramfs
  --no-new-keyring        stay in the caller's session keyring

  corten-oci create --bundle /srv/web --pid-file /run/web.pid web && corten-oci start web
";

const RUN: &str = "usage: corten-oci run [options] CONTAINER-ID

Makes a container from a bundle and starts it. In the foreground signals are passed on to the first process, its
exit status is ours (128 and the number for a signal), and the container is removed when it has ended.

  -b, --bundle DIR        the bundle (default: the current folder)
  -d, --detach            return as soon as the program runs
  --keep                  leave the state and the control group of an ended container, for `state` and `delete`
  --console-socket PATH   a Unix socket to which the terminal's master is sent
  --pidfd-socket PATH     a Unix socket to which a pidfd of the first process is sent
  --pid-file PATH         a file to which the first process's id is written
  --preserve-fds N        hand N descriptors on, from 3 up, after those of $LISTEN_FDS
  --no-pivot              change the root without pivot_root, where the host's root is an initramfs
  --no-new-keyring        stay in the caller's session keyring
  --no-subreaper          accepted: no child of others is ever adopted

  mkdir -p web/rootfs && tar -xf root.tar -C web/rootfs && corten-oci spec -b web && corten-oci run -b web web
";

const START: &str = "usage: corten-oci start CONTAINER-ID

Lets a created container execute its program. The error of an exec that fails is the error of this command.

  corten-oci start web
";

const EXEC: &str = "usage: corten-oci exec [options] CONTAINER-ID COMMAND [ARGUMENT...]
       corten-oci exec [options] --process FILE CONTAINER-ID

Runs a process more in a running container, with what its own process has, changed by these options; or as a file
says, in the form of config.json's \"process\". The exit status is the command's: 127 if it is not there, 126 if it
cannot be executed, 255 if it could not be tried.

  -p, --process FILE      all of the process from this file
  -d, --detach            return as soon as the program runs
  -t, --tty               on a terminal of its own
  -u, --user UID[:GID]    as this user, by number
  -g, --additional-gids GID
                          in this group too; may be given again
  -e, --env NAME=VALUE    with this variable; may be given again
  --cwd PATH              in this folder
  -c, --cap CAPABILITY    with this capability; may be given again
  --no-new-privs          without ever gaining a privilege
  --apparmor PROFILE      under this AppArmor profile
  --process-label LABEL   under this SELinux label
  --cgroup PATH           in this group below the container's; on cgroup v1 CONTROLLER[,CONTROLLER...]:PATH, once a
                          hierarchy. Without it a container that keeps its own top group free of processes gets
                          the new one beside its first; `--cgroup /` insists on the top
  --ignore-paused         also in a paused container: the command begins when that is resumed
  --console-socket PATH   a Unix socket to which the terminal's master is sent
  --pidfd-socket PATH     a Unix socket to which a pidfd of the process is sent
  --pid-file PATH         a file to which the process's id is written
  --preserve-fds N        hand N descriptors on, from 3 up
  --no-new-keyring        stay in the caller's session keyring

  corten-oci exec -t web sh
  corten-oci exec --user 33:33 --cwd /srv web id
";

const STATE: &str = "usage: corten-oci state CONTAINER-ID

Prints the state of a container as JSON, with the fields of the runtime specification and where it is from. Its
status is creating, created, running, paused or stopped.

  corten-oci state web
";

const LIST: &str = "usage: corten-oci list [options]

Lists the containers below --root.

  -f, --format FORMAT     table (the default) or json
  -q, --quiet             ids only

  corten-oci --root /run/containerd/runc/default list
";

const PS: &str = "usage: corten-oci ps [--format table|json] CONTAINER-ID [ps's options]

Lists the processes of a container, by their ids on the host. As JSON it is a list of ids. As a table it has the
columns of `ps -ef`; `aux` and `-o COLUMN,...` choose others, and other options of ps(1) are refused.

  -f, --format FORMAT     table (the default) or json

  corten-oci ps web
  corten-oci ps web -o pid,etime,args
";

const KILL: &str = "usage: corten-oci kill [--all] CONTAINER-ID [SIGNAL]

Sends a signal, by name or number, to a container's first process: TERM if none is named. KILL ends all processes,
also where the first has no pid namespace of its own.

  -a, --all               to every process of the container; one that is stopped is no error then

  corten-oci kill web HUP
";

const PAUSE: &str = "usage: corten-oci pause CONTAINER-ID

Freezes every process of a container. They go on where they were with `resume`.

  corten-oci pause web
";

const RESUME: &str = "usage: corten-oci resume CONTAINER-ID

Lets a paused container go on.

  corten-oci resume web
";

const UPDATE: &str = "usage: corten-oci update [options] CONTAINER-ID
       corten-oci update --resources FILE CONTAINER-ID

Changes the limits of a container. What is not named stays as it is. Sizes are bytes, or have a unit (512m, 1g).

  -r, --resources FILE    all from this file (- is stdin), in the form of config.json's \"linux.resources\"
  --memory SIZE           of memory; -1 for no limit
  --memory-reservation SIZE
                          below which nothing is reclaimed if others have more
  --memory-swap SIZE      of memory and swap together; -1 for no limit
  --cpu-share N           share of the CPU beside others, 1024 being usual
  --cpu-quota N           microseconds of CPU time in each period; -1 for no limit
  --cpu-period N          length of a period in microseconds
  --cpu-burst N           microseconds that may be saved up
  --cpu-rt-runtime N      microseconds of real-time scheduling in each of its periods
  --cpu-rt-period N       length of such a period in microseconds
  --cpu-idle 0|1          run only where the CPU would be idle
  --cpuset-cpus LIST      on these CPUs (0-3,7)
  --cpuset-mems LIST      with memory of these nodes
  --pids-limit N          processes and threads; -1 for no limit
  --blkio-weight N        share of the disks beside others, 10 to 1000
  --l3-cache-schema, --mem-bw-schema
                          refused: a part of Intel RDT is given at creation only
  --kernel-memory, --kernel-memory-tcp
                          obsolete: a warning, and no effect

  corten-oci update --memory 512m --cpu-quota 50000 web
  echo '{\"pids\":{\"limit\":100}}' | corten-oci update --resources - web
";

const EVENTS: &str = "usage: corten-oci events [options] CONTAINER-ID

Prints what a container uses as lines of JSON, every five seconds until it ends, and a line each time that one of
its processes is killed for want of memory.

  --stats                 one line, now
  --interval TIME         every so often instead (500ms, 5s, 1m30s)

  corten-oci events --stats web
";

const DELETE: &str = "usage: corten-oci delete [--force] CONTAINER-ID

Removes a stopped container: its control group, its state. Its bundle stays.

  -f, --force             kill it first if it is not stopped; one that is not there is no error

  corten-oci delete --force web
";

const FEATURES: &str = "usage: corten-oci features

Prints what this runtime understands, as JSON (the specification's features.md).

  corten-oci features
";

const SPEC: &str = "usage: corten-oci spec [options]

Writes a config.json to start from: a shell on a terminal, in namespaces of its own. One that is there is not
overwritten.

  -b, --bundle DIR        into this folder (default: the current one)
  --rootless              for a user without privileges, who runs it

  corten-oci spec --bundle web
";

const HELP: &str = "usage: corten-oci help [COMMAND]

Says what a command does and which options it has.

  corten-oci help exec
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_is_asked_for_before_a_command_of_ones_own() {
        let has = |command: &str, args: &[&str]| {
            let args: Vec<OsString> = args.iter().map(OsString::from).collect();
            asked(command, &args).is_some()
        };
        assert!(has("create", &["web", "--help"]) && has("exec", &["-h"]));
        assert!(!has("exec", &["web", "ls", "-h"]) && !has("create", &["--", "-h"]));
        assert!(!has("frob", &["-h"]));
    }

    /// Each has its usage, prose, and an example, in 120 columns.
    #[test]
    fn every_text_is_whole() {
        for (name, text) in TEXTS {
            assert!(
                text.starts_with(&format!("usage: corten-oci {name}")),
                "{name}"
            );
            assert!(text.matches("corten-oci ").count() > 1, "{name}");
            assert!(
                text.ends_with('\n') && text.lines().all(|l| l.len() < 120),
                "{name}"
            );
        }
    }

    #[test]
    fn every_option_is_told() {
        use super::super::{create, exec, update};
        let tables = [
            ("create", &create::CREATE[..]),
            ("run", &create::RUN[..]),
            ("exec", &exec::EXEC[..]),
            ("update", &update::UPDATE[..]),
        ];
        for (name, table) in tables {
            let text = of(name).unwrap();
            for known in table {
                assert!(
                    text.contains(&format!("--{}", known.long)),
                    "{name} --{}",
                    known.long
                );
            }
        }
    }
}
