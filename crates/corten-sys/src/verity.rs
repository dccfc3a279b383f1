//! fs-verity: a file that the kernel itself checks, block by block, whenever it reads it
//! (Documentation/filesystems/fsverity.rst). Once enabled, a file can be read and removed, and never again be written.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

use crate::call::checked;

/// `_IOW('f', 133, struct fsverity_enable_arg)`.
const ENABLE: libc::c_ulong = 0x4080_6685;
/// `_IOWR('f', 134, struct fsverity_digest)`.
const MEASURE: libc::c_ulong = 0xc004_6686;
const SHA256: u32 = 1;
const BLOCK: u32 = 4096;

/// `struct fsverity_enable_arg`.
#[repr(C)]
#[derive(Default)]
struct Enable {
    version: u32,
    hash_algorithm: u32,
    block_size: u32,
    salt_size: u32,
    salt_ptr: u64,
    sig_size: u32,
    reserved1: u32,
    sig_ptr: u64,
    reserved2: [u64; 11],
}

/// `struct fsverity_digest`, with room for the longest.
#[repr(C)]
struct Measured {
    algorithm: u16,
    size: u16,
    digest: [u8; 64],
}

/// Has the kernel build the file's hash tree, which reads all of it, and check every read from then on. Nobody may have it open for
/// writing. `false`: this kernel or file system has no fs-verity, or not for such files.
pub fn enable(file: impl AsFd) -> Result<bool, Errno> {
    let argument = Enable {
        version: 1,
        hash_algorithm: SHA256,
        block_size: BLOCK,
        ..Enable::default()
    };
    // SAFETY: the kernel reads one argument of the size that the number of the call has in it, and keeps nothing.
    let enabled = checked(
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), ENABLE, &raw const argument) }.into(),
    );
    match enabled {
        // EEXIST: it has it already.
        Ok(_) | Err(Errno::EXIST) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The digest of the hash tree, which the kernel has at hand. `None`: the file has no fs-verity.
pub fn measure(file: impl AsFd) -> Result<Option<Vec<u8>>, Errno> {
    let mut measured = Measured {
        algorithm: 0,
        size: 64,
        digest: [0; 64],
    };
    // SAFETY: the kernel writes at most `size` bytes behind the two numbers, which is the room that there is.
    let outcome = checked(
        unsafe { libc::ioctl(file.as_fd().as_raw_fd(), MEASURE, &raw mut measured) }.into(),
    );
    match outcome {
        Ok(_) => {
            let size = usize::from(measured.size).min(measured.digest.len());
            Ok(Some(measured.digest[..size].to_vec()))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_as_long_as_the_call_says() {
        assert_eq!(size_of::<Enable>(), (ENABLE >> 16 & 0x3fff) as usize);
        assert_eq!(size_of::<Enable>(), 128);
    }

    #[test]
    fn a_file_without_has_no_measure() {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert_eq!(measure(&file), Ok(None));
    }
}
