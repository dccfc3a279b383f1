//! From an error to an exit code, and to what a person can do about it: one table each.

use corten_engine::image::ImageError;
use corten_engine::image::policy::PolicyError;
use corten_engine::network::NetworkError;
use corten_engine::runtime::RuntimeError;
use corten_engine::{Error, Is};
use corten_registry::client::{Error as Pull, Hint};
use corten_spec::Kind;

use crate::failure::{NO_PROGRAM, NOT_EXECUTABLE, OURS};

/// As docker's: 127 and 126 where the container's program is missing or not executable, else 125.
pub fn exit_code(error: &Error) -> u8 {
    let failure = find::<corten_shim::Error>(error).and_then(corten_shim::Error::failure);
    match failure.map(|f| f.exit_code) {
        Some(127) => NO_PROGRAM,
        Some(126) => NOT_EXECUTABLE,
        _ => OURS,
    }
}

/// What to do, where there is something.
pub fn of(error: &Error) -> Option<String> {
    if let Some(hint) = find::<Pull>(error).and_then(Pull::hint) {
        return Some(pull(&hint));
    }
    match innermost(error) {
        Error::Handler(RuntimeError::Unknown { .. }) => Some(
            "runc and crun go by containerd's shim for runc; others by [runtimes] in config.toml, as io.containerd.NAME.VERSION, or by a path".into(),
        ),
        Error::Handler(RuntimeError::Program { .. }) => {
            Some("install it, or name its path in [runtimes] of config.toml".into())
        }
        Error::Handler(RuntimeError::Options { .. }) => {
            Some("see docs/runtimes.md for the options of each kind".into())
        }
        Error::ImageMissing { name } => Some(format!(
            "'corten images' lists what is here; 'corten pull {name}' gets it"
        )),
        Error::ImageInUse { .. } => {
            Some("remove the container first, or use 'corten rmi --force'".into())
        }
        Error::ImageNames { .. } => {
            Some("remove one by name, or all of them with 'corten rmi --force'".into())
        }
        Error::ImageDocument { .. } | Error::ImageBroken { .. } | Error::LayerType { .. } => {
            Some("pull it again; if that does not help, the image was built wrong".into())
        }
        Error::NoCommand { .. } => {
            Some("name one after the image, as in 'corten run IMAGE sh'".into())
        }
        Error::NotForeign { .. } => Some("add --no-healthcheck, or leave --runtime out".into()),
        Error::NoHealthCheck { .. } => Some("add --health-cmd COMMAND".into()),
        Error::ContainerMissing { .. } => Some("'corten ps --all' lists what is here".into()),
        Error::ContainerState {
            source: Is("running"),
            ..
        } => Some("stop it first, or use --force where the command has it".into()),
        Error::ContainerState {
            source: Is("restarting"),
            ..
        } => Some("its restart policy will start it again; 'corten stop' ends that".into()),
        Error::ContainerState {
            source: Is("without a health check"),
            ..
        } => Some("make it with --health-cmd, or of an image with a HEALTHCHECK".into()),
        Error::ContainerState {
            source: Is("incomplete"),
            ..
        } => Some("remove it ('corten rm'), and make it again".into()),
        Error::ContainerState { .. } => {
            Some("'corten start' runs it again; 'corten ps --all' shows its state".into())
        }
        Error::VolumeMissing { .. }
        | Error::Undo { .. }
        | Error::Stuck { .. }
        | Error::Document { .. } => {
            Some("'corten system check --repair' looks for what is left and mends it".into())
        }
        Error::Capability { .. } => {
            Some("names are those of capabilities(7), with or without CAP_".into())
        }
        Error::SeccompProfile { .. } => Some(
            "it is a seccomp profile in JSON, as docker and the OCI runtime specification have it"
                .into(),
        ),
        Error::UserMissing { .. } => Some("use a number, or a name that the image knows".into()),
        Error::UserNumber { .. } => {
            Some("use a smaller number, or a name that the image knows".into())
        }
        Error::PathMissing { path, .. } => {
            Some(format!("make it first: mkdir -p {}", path.display()))
        }
        Error::Port { .. } if error.kind() == Kind::Busy => {
            Some("choose another host port, or stop what listens there ('ss -ltnp' tells)".into())
        }
        Error::Port { .. } => Some("publish on an address of this host".into()),
        Error::Config { path, .. } => Some(format!("correct {}", path.display())),
        Error::RecordVersion { .. } => Some("use the newer corten that wrote it".into()),
        Error::Reference(_) => {
            Some("an image is named [HOST[:PORT]/]PATH[:TAG][@DIGEST], such as busybox:1.36".into())
        }
        Error::Image(e) => Some(image(e)),
        Error::Network(e) => Some(network(e)),
        Error::Policy(e) => Some(policy(e)),
        Error::Archive { .. } | Error::Manifest { .. } => {
            Some("whoever made it has to make it again: nothing of it was kept".into())
        }
        Error::Io { path, source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            Some(format!("check that {} is right", path.display()))
        }
        Error::Id(_) => Some("see 'corten ps --all' for names and ids".into()),
        _ => by_kind(error),
    }
}

fn by_kind(error: &Error) -> Option<String> {
    if exit_code(error) == NO_PROGRAM {
        return Some("check the command's spelling, and that the image has it".into());
    }
    if exit_code(error) == NOT_EXECUTABLE {
        return Some(
            "it must be an executable file for this architecture, with the x bit set".into(),
        );
    }
    let store = find::<corten_store::Error>(error);
    if matches!(store, Some(corten_store::Error::NoSpace { .. })) {
        return Some(
            "free space there ('corten system prune' removes what nothing uses), then try again"
                .into(),
        );
    }
    match error.kind() {
        Kind::Denied => Some("corten needs root".into()),
        Kind::AlreadyExists if find::<corten_net::Error>(error).is_some() => {
            Some("stop the container that has it, or ask for another".into())
        }
        Kind::AlreadyExists => {
            Some("choose another name, or remove what has it ('corten rm')".into())
        }
        Kind::Busy | Kind::Unavailable => Some("try again".into()),
        Kind::Unsupported => Some("'corten system info' tells what this host can do".into()),
        Kind::Invalid | Kind::NotFound | Kind::Conflict | Kind::Internal => None,
    }
}

fn network(error: &NetworkError) -> String {
    match error {
        NetworkError::Missing { .. } => "'corten network ls' lists what is here".into(),
        NetworkError::NoConfiguration { folder } => {
            format!("put a CNI configuration into {}", folder.display())
        }
        NetworkError::Name { .. } | NetworkError::Reserved { .. } | NetworkError::Exists { .. } => {
            "choose another name".into()
        }
        NetworkError::NotOurs { .. } => {
            "it is set in corten's configuration folder; change it there".into()
        }
        NetworkError::InUse { name, .. } => {
            format!("remove them first, or with it: 'corten network rm --force {name}'")
        }
        NetworkError::Driver { .. } => "the drivers are bridge, macvlan and ipvlan".into(),
        NetworkError::Definition { .. }
        | NetworkError::Option { .. }
        | NetworkError::OptionValue { .. } => {
            "'corten network create --help' tells what it takes".into()
        }
        NetworkError::NoSubnetFor { .. } => "name its subnet with --subnet".into(),
        NetworkError::SubnetTaken { .. } => {
            "choose another, or leave --subnet out: then a free one is found".into()
        }
        NetworkError::LinkTaken { .. } => {
            "name another, or give both a VLAN of their own with --opt vlan".into()
        }
        NetworkError::PoolsFull { .. } => {
            "name one with --subnet, or give [network] more pools in config.toml".into()
        }
        NetworkError::Connected { .. } | NetworkError::NotConnected { .. } => {
            "'corten inspect CONTAINER' tells the networks that it is on".into()
        }
        NetworkError::Alone { .. } => {
            "make the container anew, with the networks that it is to have".into()
        }
        NetworkError::Address { .. } => "'corten network inspect NETWORK' tells its subnets".into(),
        NetworkError::Interface { .. } => "give each network an interface_name of its own".into(),
        NetworkError::Exposed { .. } => {
            "publish the others one by one with --publish, instead of --publish-all".into()
        }
        NetworkError::Twice { .. } => "name each network once".into(),
        NetworkError::Ports => {
            "leave --publish out, or add a bridge network that is not internal".into()
        }
        NetworkError::Join {
            source: Is("removed"),
            ..
        } => "make the container anew, with a network that is there".into(),
        NetworkError::Join { .. } => "start it first".into(),
        NetworkError::Namespace { .. } => {
            "such files are /proc/PID/ns/net and those below /run/netns".into()
        }
        NetworkError::Together {
            what: "published ports",
            mode,
        } if mode == "host" => {
            "leave --publish out: what it serves is on the host's ports already".into()
        }
        NetworkError::Together { what, mode } if mode == "none" => {
            format!("leave out what sets the {what}, or leave out --network none")
        }
        NetworkError::Together { what, .. } => {
            format!("leave out what sets the {what}: they come with that network")
        }
    }
}

fn policy(error: &PolicyError) -> String {
    match error {
        PolicyError::Syntax { path, .. } | PolicyError::Rule { path, .. } => {
            format!("correct {}: until then nothing is pulled", path.display())
        }
        PolicyError::Key { path, .. } => format!(
            "put the public key into {} (PEM, or what 'gpg --export' writes)",
            path.display()
        ),
        PolicyError::Rejected { .. } => {
            "policy.toml in corten's configuration folder decides this; 'corten image policy NAME' tells which rule".into()
        }
        PolicyError::Unsigned { .. } => {
            "pull an image that its makers have signed, or have it signed; policy.toml names the keys".into()
        }
    }
}

fn image(error: &ImageError) -> String {
    match error {
        ImageError::Filter { .. } => {
            "'--help' after the command lists its filters with their values".into()
        }
        ImageError::TagWithDigest { .. } => {
            "name a tag, as in corten tag IMAGE example.com/app:1".into()
        }
        ImageError::Platform { .. } => {
            "'corten pull --platform' gets another; 'corten image platforms' lists them".into()
        }
        ImageError::Mounted { name, .. } => {
            format!("'corten image unmount {name}' first, or use 'corten rmi --force'")
        }
        ImageError::Exists { path } => format!("remove {} first, or name another", path.display()),
        ImageError::Archive { .. } | ImageError::Member { .. } => {
            "an archive is what 'corten save', docker, podman or skopeo wrote; make it again".into()
        }
        ImageError::Change { .. } => {
            "a change is a line such as 'ENV A=1', 'CMD [\"sh\"]', 'EXPOSE 80', 'LABEL k=v'".into()
        }
        ImageError::List { .. } => "'corten manifest inspect NAME' shows what it has".into(),
        ImageError::Document { .. } => "it must be JSON as the OCI specifications have it".into(),
        ImageError::Place { .. } => {
            "places are docker://NAME, oci:FOLDER[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME], dir:FOLDER".into()
        }
    }
}

fn pull(hint: &Hint) -> String {
    match hint {
        Hint::CheckName => "check the name and the tag".into(),
        Hint::Login { host, user: None } => {
            format!("'corten login {host}' gives it an account (kept in ~/.docker/config.json)")
        }
        Hint::Login {
            host,
            user: Some(user),
        } => format!("correct the password of {user} for {host}: 'corten login {host}'"),
        Hint::Platforms(all) => format!("choose one of these with --platform: {}", all.join(", ")),
        Hint::TrustCa { host } => format!(
            "if the host is right, name its authority as 'ca' in /etc/corten/certs.d/{host}/hosts.toml"
        ),
        Hint::PlainHttp { host } => format!(
            "if plain HTTP is meant, put server = \"http://{host}\" into /etc/corten/certs.d/{host}/hosts.toml"
        ),
        Hint::RetryLater(None) => "try again; what has arrived is kept".into(),
        Hint::RetryLater(Some(after)) => format!(
            "try again in {} s; what has arrived is kept",
            after.as_secs()
        ),
        Hint::CheckHost { host } => format!("check that {host} is right and can be reached"),
        Hint::FixFile(path) => format!("correct {}", path.display()),
    }
}

/// The engine's own error at the bottom of its wrappers.
fn innermost(error: &Error) -> &Error {
    match error {
        Error::Container { source, .. } => innermost(source),
        e => e,
    }
}

/// The first error of a type in the chain.
fn find<E: std::error::Error + 'static>(error: &Error) -> Option<&E> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref::<E>() {
            return Some(found);
        }
        next = e.source();
    }
    None
}
