//! Another process in a running container, and streams to the first.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use corten_shim::attach::{self, Attached, Hello};
use corten_shim::client::{Client, Stdio};
use corten_spec::ContainerId;
use corten_spec::oci::runtime::Process;
use rustix::fs::{Mode, OFlags};
use serde_json::{Value, json};

use super::record::Container;
use super::status::Status;
use super::user::User;
use super::{spec, user};
use crate::Engine;
use crate::error::{Error, Is};
use crate::rootfs;
use crate::runtime::RuntimeError;

/// What `exec` asks for; what is left out is as the container's own process has it.
#[derive(Clone, Debug, Default)]
pub struct ExecOptions {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    pub tty: bool,
    pub stdin: bool,
    pub privileged: bool,
    /// Nobody listens: no streams are made.
    pub detach: bool,
}

/// A process that was announced to the supervisor, and is not started yet.
pub struct ExecSession {
    shim: Client,
    id: String,
    attached: Option<Attached>,
}

/// The way to a container's supervisor. It is gone only when somebody needs it.
#[derive(Clone, Debug)]
pub struct Controller {
    bundle: PathBuf,
    id: ContainerId,
}

impl Controller {
    /// Sends a signal to a process of the container: init with an empty `exec_id`.
    pub fn signal(&self, exec_id: &str, signal: i32) -> Result<(), Error> {
        let mut shim = corten_shim::client::connect(&self.bundle, &self.id)?;
        Ok(shim.kill(exec_id, signal.unsigned_abs(), false)?)
    }
}

impl Engine {
    /// Announces a process and attaches to it.
    pub fn exec(&self, container: &Container, options: &ExecOptions) -> Result<ExecSession, Error> {
        let status = self.status(container)?;
        let (true, Some(mut shim)) = (status.is_running(), self.supervisor(&container.id)?) else {
            return Err(Error::ContainerState {
                name: container.name.to_string(),
                action: "entered",
                source: Is(status.as_str()),
            });
        };
        let process = self.exec_process(container, &status, options)?;
        let id = exec_id()?;
        let mut stdio = match options.detach {
            true => Stdio {
                terminal: options.tty,
                ..Stdio::default()
            },
            false => Stdio::attach(options.tty),
        };
        if !options.stdin {
            stdio.stdin.clear();
        }
        shim.exec(&id, stdio, &process)?;
        let attached = match options.detach {
            true => None,
            false => match self.attach(container, &id, options.stdin) {
                Ok(attached) => Some(attached),
                Err(e) => {
                    // The first error is the one to tell.
                    let _forgotten = shim.delete(&id);
                    return Err(e);
                }
            },
        };
        Ok(ExecSession { shim, id, attached })
    }

    /// Streams to the stdio of a process of the container: init's with an empty `exec_id`.
    pub fn attach(
        &self,
        container: &Container,
        exec_id: &str,
        stdin: bool,
    ) -> Result<Attached, Error> {
        let hello = Hello {
            exec_id: exec_id.into(),
            stdin,
            stdout: true,
            stderr: true,
        };
        Ok(attach::connect(&self.paths.bundle(&container.id), &hello)?)
    }

    /// The way to the container's supervisor, for signals while streams are open.
    pub fn controller(&self, container: &Container) -> Controller {
        Controller {
            bundle: self.paths.bundle(&container.id),
            id: container.id.clone(),
        }
    }

    /// The container's own process, changed as asked.
    fn exec_process(
        &self,
        container: &Container,
        status: &Status,
        options: &ExecOptions,
    ) -> Result<Process, Error> {
        let path = self.paths.bundle(&container.id).join("config.json");
        let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        let document = |source| Error::Document {
            path: path.clone(),
            source,
        };
        let config: Value = serde_json::from_slice(&bytes).map_err(document)?;
        let mut process = config["process"].clone();
        process["args"] = json!(options.command);
        process["terminal"] = json!(options.tty);
        let mut env: Vec<String> =
            serde_json::from_value(process["env"].clone()).unwrap_or_default();
        if options.tty && !env.iter().any(|e| e.starts_with("TERM=")) {
            env.push("TERM=xterm".into());
        }
        for entry in &options.env {
            spec::set(&mut env, entry);
        }
        if let Some(asked) = &options.user {
            let user = self.user_of(container, status, asked)?;
            process["user"] = json!({
                "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids,
                "umask": spec::UMASK,
            });
            // The user's own, unless somebody has said otherwise.
            let image = self.config_of(container)?;
            let said = (image.env.iter())
                .chain(&container.record.options.process.env)
                .chain(&options.env);
            if !said.into_iter().any(|e| e.starts_with("HOME=")) {
                spec::set(&mut env, &format!("HOME={}", user.home));
            }
        }
        process["env"] = json!(env);
        if let Some(dir) = &options.workdir {
            process["cwd"] = json!(dir);
        }
        if options.privileged {
            let all = super::capability::effective(&super::options::Security {
                privileged: true,
                ..Default::default()
            })?;
            process["capabilities"] =
                json!({ "bounding": all, "effective": all, "permitted": all });
        }
        serde_json::from_value(process).map_err(document)
    }
}

impl Engine {
    /// A user of a running container, by its own files.
    fn user_of(&self, container: &Container, status: &Status, asked: &str) -> Result<User, Error> {
        let runtime = container.record.options.runtime.as_deref();
        let foreign = self.foreign_runtime(runtime)?;
        if foreign.is_some_and(|f| !f.shows_root()) {
            // The process of a virtual machine has the host's root, and the host's users are not the container's.
            let hidden = |_| RuntimeError::User {
                user: asked.into(),
                runtime: runtime.unwrap_or_default().into(),
            };
            return Ok(user::resolve(asked, "", "").map_err(hidden)?);
        }
        let root = root_of(status)?;
        let passwd = rootfs::read_text(root.as_fd(), "/etc/passwd")?;
        let group = rootfs::read_text(root.as_fd(), "/etc/group")?;
        user::resolve(asked, &passwd, &group)
    }
}

/// The root as init sees it, through its /proc entry.
fn root_of(status: &Status) -> Result<OwnedFd, Error> {
    let pid = match status {
        Status::Running { pid } => *pid,
        Status::Created | Status::Exited(_) | Status::Lost => 0,
    };
    let path = format!("/proc/{pid}/root");
    rustix::fs::open(
        path.as_str(),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(|e| Error::io("open", path)(e.into()))
}

impl ExecSession {
    /// Starts the process; returns when its program has been executed.
    pub fn start(&mut self) -> Result<u32, Error> {
        let started = self.shim.start(&self.id);
        if started.is_err() {
            // Else the supervisor would keep it until the container ends.
            let _forgotten = self.shim.delete(&self.id);
        }
        Ok(started?)
    }

    /// The streams, to be taken once.
    pub fn take_streams(&mut self) -> Option<Attached> {
        self.attached.take()
    }

    /// The supervisor's name for the process.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits for the end, takes the process off the supervisor's list, and returns the exit status.
    pub fn finish(mut self) -> Result<u32, Error> {
        let exit = self.shim.wait(&self.id)?;
        self.shim.delete(&self.id)?;
        Ok(exit.status)
    }
}

fn exec_id() -> Result<String, Error> {
    Ok(super::random_id()?.as_str()[..16].to_owned())
}
