//! New clients of `attach.sock`: from the connection to the hello.

use std::os::fd::OwnedFd;

use super::Shim;
use super::task::Phase;
use crate::attach::Hello;
use crate::stdio::Client;

/// Connections that have not said hello; more are a mistake or an attack.
const GREETING_MAX: usize = 32;

impl Shim {
    pub(super) fn accept_attach(&mut self, serial: u32) {
        loop {
            let number = self.serial();
            let Some(task) = self.tasks.get_mut(&serial) else {
                return;
            };
            let Some(accepted) = task.attach.as_ref().map(|l| l.accept()) else {
                return;
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => return self.not_accepted(&error),
            };
            if task.greeting.len() < GREETING_MAX && socket.set_nonblocking(true).is_ok() {
                task.greeting
                    .push(Client::new(number, OwnedFd::from(socket)));
            }
        }
    }

    pub(super) fn greet(&mut self, serial: u32, id: u32) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(at) = task.greeting.iter().position(|c| c.id == id) else {
            return;
        };
        let client = &mut task.greeting[at];
        client.receive(&mut self.scratch);
        match client.greeting() {
            Ok(None) if !client.read_closed && !client.is_gone() => {}
            Ok(None) => drop(task.greeting.swap_remove(at)),
            Err(why) => task.greeting.swap_remove(at).refuse(&why),
            Ok(Some(hello)) => {
                let client = task.greeting.swap_remove(at);
                self.join(serial, client, hello);
            }
        }
    }

    fn join(&mut self, serial: u32, mut client: Client, hello: Hello) {
        let Some(task) = self.tasks.get_mut(&serial) else {
            return;
        };
        let Some(process) = task.named(&hello.exec_id) else {
            return client.refuse(&format!("no process {:?}", hello.exec_id));
        };
        client.welcome(hello);
        // After the exit there is nothing more to come: end of file is the whole answer.
        if !matches!(process.phase, Phase::Exited(_)) {
            process.io.add_client(client, &mut self.scratch);
        }
    }
}
