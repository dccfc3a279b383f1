//! Places where a test ends the process, as a kill would, to see what is left and whether the next
//! call copes. Compiled in under the feature `failpoints` alone.

/// Ends this process with SIGKILL if `CORTEN_FAILPOINT` names the place.
#[cfg(feature = "failpoints")]
pub(crate) fn reach(name: &str) {
    if std::env::var_os("CORTEN_FAILPOINT").is_some_and(|wanted| wanted == name) {
        let me = rustix::process::getpid();
        // Does not return where it succeeds: the signal is taken before the system call ends.
        let killed = rustix::process::kill_process(me, rustix::process::Signal::KILL);
        unreachable!("a process may kill itself: {killed:?}");
    }
}

/// A step between two changes of the host: `failpoint!("bridge.add.linked")`.
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        crate::failpoint::reach($name);
    };
}

pub(crate) use failpoint;
