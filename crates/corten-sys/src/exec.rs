//! A program to be executed, laid out before the clone so that the child allocates nothing.

use std::ffi::{CStr, CString, c_char};

use rustix::io::Errno;

use crate::call::last;

/// Room for a `HOME=` that is only known inside the container.
const HOME_MAX: usize = 1024;
const HOME: &[u8] = b"HOME=";

/// Path candidates, arguments and environment.
#[derive(Debug)]
pub struct Program {
    paths: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    argument_pointers: Pointers,
    environment_pointers: Pointers,
    home: Option<Box<[u8; HOME_MAX]>>,
}

/// A null-terminated array of C strings that live in the same [`Program`].
#[derive(Debug)]
struct Pointers(Vec<*const c_char>);

impl Pointers {
    fn to(strings: &[CString]) -> Self {
        let pointers = strings.iter().map(|s| s.as_ptr());
        Self(pointers.chain([std::ptr::null()]).collect())
    }
}

impl Program {
    /// `paths` are tried in order by whoever executes. With `wants_home` one variable more, `HOME`,
    /// is appended by [`set_home`](Self::set_home).
    pub fn new(
        paths: Vec<CString>,
        arguments: Vec<CString>,
        environment: Vec<CString>,
        wants_home: bool,
    ) -> Self {
        let home = wants_home.then(|| Box::new([0; HOME_MAX]));
        let argument_pointers = Pointers::to(&arguments);
        let mut environment_pointers = Pointers::to(&environment);
        if home.is_some() {
            environment_pointers.0.push(std::ptr::null());
        }
        Self {
            paths,
            arguments,
            environment,
            argument_pointers,
            environment_pointers,
            home,
        }
    }

    pub fn paths(&self) -> &[CString] {
        &self.paths
    }

    pub fn wants_home(&self) -> bool {
        self.home.is_some()
    }

    /// Fills in `HOME`. Allocates nothing; too long a path is refused.
    pub fn set_home(&mut self, path: &[u8]) -> Result<(), Errno> {
        let Some(home) = &mut self.home else {
            return Ok(());
        };
        let len = HOME.len() + path.len();
        if len >= HOME_MAX || path.contains(&0) {
            return Err(Errno::NAMETOOLONG);
        }
        home[..HOME.len()].copy_from_slice(HOME);
        home[HOME.len()..len].copy_from_slice(path);
        home[len] = 0;
        let slot = self.environment.len();
        self.environment_pointers.0[slot] = home.as_ptr().cast();
        Ok(())
    }

    pub(crate) fn arguments(&self) -> impl Iterator<Item = &CStr> {
        self.arguments.iter().map(CString::as_c_str)
    }

    pub(crate) fn environment(&self) -> impl Iterator<Item = &CStr> {
        let home = self
            .home
            .as_ref()
            .and_then(|h| CStr::from_bytes_until_nul(&h[..]).ok());
        let home = home.filter(|h| !h.is_empty());
        self.environment.iter().map(CString::as_c_str).chain(home)
    }

    /// Bytes of all strings, terminators included, and how many there are at most.
    pub(crate) fn size(&self) -> (usize, usize) {
        let strings = self.arguments.iter().chain(&self.environment);
        let longest = self.paths.iter().map(|p| p.as_bytes_with_nul().len()).max();
        let bytes = strings.map(|s| s.as_bytes_with_nul().len()).sum::<usize>();
        let count = self.arguments.len() + self.environment.len() + 2;
        (bytes + longest.unwrap_or(0) + HOME_MAX, count)
    }

    /// Executes `path` in place of this process. Returns only if the kernel refuses.
    pub fn execute(&self, path: &CStr) -> Errno {
        // SAFETY: a C string and two null-terminated arrays of C strings, all owned by `self`.
        unsafe {
            libc::execve(
                path.as_ptr(),
                self.argument_pointers.0.as_ptr(),
                self.environment_pointers.0.as_ptr(),
            )
        };
        last()
    }
}
