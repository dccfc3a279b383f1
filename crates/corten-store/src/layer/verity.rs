//! The kernel as a witness: where the file system has fs-verity, the files of a flushed image can no longer be written, and the kernel checks each
//! block of them that it reads. Their measures are in the layer's row, and are compared before the image is mounted: a file that was put in their
//! place, by whomever, is not used.
//!
//! Costs one more reading of what was pulled, when nobody waits for it; nothing where the file system lacks it.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::io::Errno;

use super::LayerId;
use super::erofs::{DATA, META, SPARSE};
use crate::error::{Error, Result};
use crate::store::Store;

/// Seals a layer's image, and notes the measures. `false`: somebody is still writing, its maker's other thread, of an earlier try. The next flush
/// finds it closed.
pub(crate) fn seal(store: &Store, id: &LayerId) -> Result<bool> {
    let folder = store.layer_path(id);
    for name in [DATA, META, SPARSE] {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("open", &path))?,
        };
        match corten_sys::verity::enable(&file) {
            Ok(true) => {}
            Ok(false) => return Ok(true),
            Err(Errno::TXTBSY) => return Ok(false),
            Err(e) => return Err(Error::io("seal", &path)(io::Error::from(e))),
        }
    }
    let op = "note the measures of a layer";
    store.db().write(op, |t| {
        // Read inside the lock for names: the layer may have been collected and pulled again meanwhile, and its files are others then.
        let values = (id.as_str(), measures(&folder)?);
        t.execute("UPDATE layer SET verity = ?2 WHERE id = ?1", values)
            .map_err(Error::db(op))?;
        Ok(true)
    })
}

/// `NAME=HEX` of each file, a space between; nothing where one of them is not sealed.
fn measures(folder: &Path) -> Result<Option<String>> {
    let mut out = Vec::new();
    for name in [DATA, META, SPARSE] {
        let path = folder.join(name);
        let file = match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::io("open", &path))?,
        };
        match measured(&file).map_err(Error::io("measure", &path))? {
            Some(measure) => out.push(format!("{name}={measure}")),
            None => return Ok(None),
        }
    }
    Ok((!out.is_empty()).then(|| out.join(" ")))
}

/// Compares a sealed image's files with what its row says; says which one is another.
pub(crate) fn check(store: &Store, id: &LayerId, measures: &str) -> Result<()> {
    for (name, expected) in measures.split(' ').filter_map(|m| m.split_once('=')) {
        let path = store.layer_path(id).join(name);
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let found = measured(&file).map_err(Error::io("measure", &path))?;
        if found.as_deref() != Some(expected) {
            return Err(Error::Damaged {
                what: "layer",
                name: id.to_string(),
                why: format!("its file {name} is not the one that was sealed"),
            });
        }
    }
    Ok(())
}

fn measured(file: &File) -> io::Result<Option<String>> {
    let measure = corten_sys::verity::measure(file)?;
    Ok(measure.map(|bytes| bytes.iter().map(|b| format!("{b:02x}")).collect()))
}
