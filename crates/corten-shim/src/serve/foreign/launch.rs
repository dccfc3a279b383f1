//! The `start` action: a program that leaves the real shim behind, and says where that listens.
//!
//! Shims that were built for containerd 2.3 and later want `BootstrapParams` on their standard input and refuse all
//! else; older ones want the options there, or nothing, and some fail on what they do not know. Neither has done
//! anything by then: so the older form is tried, and after a failure the newer.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::time::Instant;

use prost::Message;
use prost_types::Any;
use rustix::fs::MemfdFlags;

use super::{Foreign, Live, Part, Stage, read_some, soon};
use crate::foreign::{end_processes, parse_answer, service};
use crate::listen::connect_now;
use crate::proto::bootstrap::{BootstrapParams, Extension};
use crate::proto::task::CreateTaskRequest;
use crate::serve::Shim;
use crate::serve::connection::{Connection, Responder};
use crate::stdio::open::unblock;
use crate::ttrpc::status::{Code, Status};

/// An answer is an address; a complaint may be long.
const OUTPUT_MAX: usize = 16 << 10;

/// A `start` under way.
#[derive(Debug)]
pub struct Launch {
    pub child: u32,
    /// When it is given up.
    pub until: Instant,
    answer: Option<ChildStdout>,
    complaint: Option<ChildStderr>,
    said: Vec<u8>,
    complained: Vec<u8>,
    /// 128 + the signal, as a shell counts.
    code: Option<u32>,
    form: Form,
    /// What is to be done then.
    create: Box<CreateTaskRequest>,
    responder: Responder,
}

/// What the shim reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Options,
    Params,
}

impl Launch {
    pub fn answer(&self) -> Option<BorrowedFd<'_>> {
        self.answer.as_ref().map(AsFd::as_fd)
    }

    pub fn complaint(&self) -> Option<BorrowedFd<'_>> {
        self.complaint.as_ref().map(AsFd::as_fd)
    }

    pub fn read(&mut self, part: Part, scratch: &mut [u8]) {
        let said = &mut self.said;
        match part {
            Part::Answer => read_some(&mut self.answer, said, scratch, OUTPUT_MAX),
            Part::Complaint => {
                read_some(
                    &mut self.complaint,
                    &mut self.complained,
                    scratch,
                    OUTPUT_MAX,
                );
            }
            Part::Socket | Part::Log => {}
        }
    }

    pub fn ended(&mut self, code: u32) {
        self.code = Some(code);
    }

    /// Ends a program that takes too long, or for which nobody waits any more.
    fn kill(&self) {
        if self.code.is_none()
            && let Some(pid) = rustix::process::Pid::from_raw(self.child as i32)
        {
            // Our child, and not reaped: the number is its own.
            let _killed = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// Whether it has said everything. What it leaves behind may hold its standard error, and then nothing more comes.
    fn is_over(&self) -> bool {
        self.code.is_some() && self.answer.is_none()
    }
}

impl Foreign {
    /// Starts the shim; `create` is sent to it when it is there.
    pub(super) fn launch(
        &mut self,
        create: Box<CreateTaskRequest>,
        responder: Responder,
    ) -> std::io::Result<()> {
        self.launch_with(Form::Options, create, responder)
    }

    fn launch_with(
        &mut self,
        form: Form,
        create: Box<CreateTaskRequest>,
        responder: Responder,
    ) -> std::io::Result<()> {
        let input = match form {
            Form::Options => create
                .options
                .as_ref()
                .map(Message::encode_to_vec)
                .unwrap_or_default(),
            Form::Params => self.params(create.options.clone()).encode_to_vec(),
        };
        let mut command = self.order.command(&self.folder, &self.events, "start");
        command
            .stdin(in_memory(&input)?)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (answer, complaint) = (child.stdout.take(), child.stderr.take());
        for fd in [
            answer.as_ref().map(AsFd::as_fd),
            complaint.as_ref().map(AsFd::as_fd),
        ] {
            fd.map_or(Ok(()), unblock)?;
        }
        self.stage = Stage::Launching(Box::new(Launch {
            child: child.id(),
            until: soon(),
            answer,
            complaint,
            said: Vec::new(),
            complained: Vec::new(),
            code: None,
            form,
            create,
            responder,
        }));
        Ok(())
    }

    fn params(&self, options: Option<Any>) -> BootstrapParams {
        BootstrapParams {
            instance_id: self.order.id.clone(),
            namespace: self.order.namespace.clone(),
            containerd_ttrpc_address: self.events.clone(),
            containerd_grpc_address: self.events.clone(),
            containerd_binary: "/bin/true".into(),
            extensions: options
                .into_iter()
                .map(|o| Extension { value: Some(o) })
                .collect(),
            ..BootstrapParams::default()
        }
    }

    /// Connects to where the shim says that it listens.
    fn connect(&self, said: &[u8]) -> Result<Live, String> {
        let answer = parse_answer(said)?;
        let socket = connect_now(&answer.socket)
            .map_err(|e| format!("cannot reach it at {}: {e}", answer.socket.display()))?;
        // `delete` and whoever cleans up find it here; newer shims leave that to their engine.
        let address = format!("unix://{}", answer.socket.display());
        std::fs::write(self.folder.join("address"), address)
            .map_err(|e| format!("cannot write its address: {e}"))?;
        Ok(Live {
            connection: Connection::new(socket),
            service: service(answer.version),
            stream: 1,
            pending: Default::default(),
        })
    }

    /// Why it did not start, in its own words.
    fn failure(&self, launch: &Launch) -> String {
        let words = [&launch.complained, &launch.said, &self.log_tail];
        let words = words
            .iter()
            .map(|w| String::from_utf8_lossy(w).trim().to_owned());
        let words = words
            .into_iter()
            .find(|w| !w.is_empty())
            .unwrap_or_default();
        let how = match launch.code {
            None => "took too long".to_owned(),
            Some(code) => format!("failed with {code}"),
        };
        format!("{} start {how}: {words}", self.name())
    }
}

impl Shim {
    /// Lets go of a container that was not started. Its order stays on disk, and with it whoever gives back what was made. Who has
    /// asked for it is told.
    pub(in crate::serve) fn break_off(&mut self, serial: u32) {
        let Some(foreign) = self.foreign_of(serial) else {
            return;
        };
        let folder = foreign.folder.clone();
        let launching = match &foreign.stage {
            Stage::Launching(launch) => {
                launch.kill();
                Some(launch.responder)
            }
            Stage::Live(_) | Stage::Cleaning { .. } | Stage::Gone => None,
        };
        // Whoever waits for anything of it is answered there.
        self.remove_task(serial);
        // Its FIFOs are closed by now, and in opening them it could hang for ever.
        end_processes(&folder);
        if let Some(responder) = launching {
            let text = "the container was killed before it was started";
            self.respond(responder, Err(Status::new(Code::Unavailable, text)));
        }
    }

    /// Goes on when the program has ended, or its time is over.
    pub(super) fn advance_launch(&mut self, serial: u32) {
        let Some(foreign) = self.foreign_of(serial) else {
            return;
        };
        let Stage::Launching(launch) = &foreign.stage else {
            return;
        };
        let late = launch.until <= Instant::now();
        if !late && !launch.is_over() {
            return;
        }
        let Stage::Launching(launch) = std::mem::replace(&mut foreign.stage, Stage::Gone) else {
            return;
        };
        let responder = launch.responder;
        let failed = match launch.code {
            Some(0) => match foreign.connect(&launch.said) {
                Ok(live) => {
                    foreign.stage = Stage::Live(Box::new(live));
                    return self.foreign_create(serial, &launch.create, responder);
                }
                Err(why) => format!("{}: {why}", foreign.name()),
            },
            Some(_) if launch.form == Form::Options => {
                let first = foreign.failure(&launch);
                match foreign.launch_with(Form::Params, launch.create, responder) {
                    Ok(()) => {
                        if let Stage::Launching(second) = &mut foreign.stage {
                            // If this fails too, the first complaint is as likely to be the reason.
                            second.complained = format!("{first}; ").into_bytes();
                        }
                        return;
                    }
                    Err(error) => format!("{}: {error}", foreign.name()),
                }
            }
            _ => {
                launch.kill();
                foreign.failure(&launch)
            }
        };
        let status = Status::new(Code::Unknown, failed);
        self.give_up(serial, responder, status);
    }
}

/// A file with these bytes, to be read from its start.
fn in_memory(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("options", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}
