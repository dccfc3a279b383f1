use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::super::{Log, Stream, follow};
use super::*;

fn limits(max_size: u64, max_files: u32) -> Limits {
    Limits {
        max_size,
        max_files,
    }
}

fn text_of(path: &Path) -> String {
    follow::files(path)
        .iter()
        .map(|f| fs::read_to_string(f).unwrap())
        .collect()
}

/// The texts of whole lines.
fn lines(text: &str) -> Vec<&str> {
    text.lines().map(|l| &l[40..]).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Of 50 bytes with its newline.
fn line(n: usize) -> Vec<u8> {
    format!("{n:09}\n").into_bytes()
}

#[test]
fn files_stay_below_the_limit_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path, limits(120, 3)).unwrap();
    for n in 0..9 {
        log.write(Stream::Stdout, &line(n)).unwrap();
    }
    assert_eq!(names(dir.path()), ["log", "log.1", "log.2"]);
    assert_eq!(
        lines(&text_of(&path)),
        [
            "000000004",
            "000000005",
            "000000006",
            "000000007",
            "000000008"
        ]
    );
    // A burst in one piece is cut at the same places.
    let burst: Vec<u8> = (10..15).flat_map(line).collect();
    log.write(Stream::Stdout, &burst).unwrap();
    for file in follow::files(&path) {
        assert!(fs::metadata(file).unwrap().len() <= 120);
    }
    let text = text_of(&path);
    assert_eq!(lines(&text).last(), Some(&"000000014"));
    // A record longer than the limit has a file of its own.
    log.write(Stream::Stdout, &[vec![b'x'; 500], vec![b'\n']].concat())
        .unwrap();
    log.write(Stream::Stdout, &line(16)).unwrap();
    assert_eq!(lines(&fs::read_to_string(&path).unwrap()), ["000000016"]);
}

#[test]
fn one_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path, limits(60, 0)).unwrap();
    log.write(Stream::Stdout, &line(1)).unwrap();
    let follower = File::open(&path).unwrap();
    log.write(Stream::Stdout, &line(2)).unwrap();
    assert_eq!(names(dir.path()), ["log"]);
    assert_eq!(lines(&text_of(&path)), ["000000002"]);
    let mut next = follow::successor(&path, &follower).unwrap().unwrap();
    let mut text = String::new();
    next.read_to_string(&mut text).unwrap();
    assert_eq!(lines(&text), ["000000002"]);
    assert!(follow::successor(&path, &next).unwrap().is_none());
}

#[test]
fn a_kill_between_any_two_renames_loses_nothing() {
    // Each entry is a state that a rotation of `log` to `log.3` passes through.
    for state in [
        &["log", "log.1", "log.2", "log.new"][..],
        &["log", "log.1", "log.3", "log.new"],
        &["log", "log.2", "log.3", "log.new"],
        &["log.1", "log.2", "log.3", "log.new"],
        &["log", "log.1", "log.2", "log.3"],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let full = state.len() == 4 && !state.contains(&"log.new");
        for name in state.iter().filter(|n| !n.ends_with("new")) {
            let age = name.strip_prefix("log.").map_or(0, |n| n.parse().unwrap());
            fs::write(dir.path().join(name), log_line(10 - age)).unwrap();
        }
        if state.contains(&"log.new") {
            fs::write(dir.path().join("log.new"), "").unwrap();
        }
        let before = text_of(&path);
        let mut log = Log::open(&path, limits(60, 4)).unwrap();
        assert!(!dir.path().join("log.new").exists());
        assert_eq!(text_of(&path), before, "{state:?}");
        log.write(Stream::Stdout, &line(11)).unwrap();
        let after = text_of(&path);
        let kept = if full { &before[50..] } else { &before };
        assert_eq!(after[..after.len() - 50], *kept, "{state:?}");
        assert_eq!(lines(&after).last(), Some(&"000000011"));
    }
}

fn log_line(n: usize) -> String {
    format!("2026-01-01T00:00:00.000000000Z stdout F {n:09}\n")
}

#[test]
fn a_lower_limit_removes_what_is_too_much() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    for name in ["log", "log.1", "log.2", "log.3", "log.4", "log.x"] {
        fs::write(dir.path().join(name), log_line(1)).unwrap();
    }
    Log::open(&path, limits(0, 2)).unwrap();
    assert_eq!(names(dir.path()).len(), 6, "without a size nothing rotates");
    Log::open(&path, limits(60, 2)).unwrap();
    assert_eq!(names(dir.path()), ["log", "log.1", "log.x"]);
}

#[test]
fn half_a_line_of_a_killed_writer_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::write(&path, "2026-01-01T00:00:00.000000000Z stdout F hal").unwrap();
    let mut log = Log::open(&path, Limits::default()).unwrap();
    log.write(Stream::Stdout, &line(1)).unwrap();
    assert_eq!(lines(&text_of(&path)), ["hal", "000000001"]);
}

#[test]
fn a_renamed_file_is_left_after_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&path, Limits::default()).unwrap();
    log.write(Stream::Stdout, b"one\nbeg").unwrap();
    let aside = dir.path().join("log.20260101");
    fs::rename(&path, &aside).unwrap();
    log.write(Stream::Stdout, b"un\n").unwrap();
    let follower = File::open(&aside).unwrap();
    assert!(follow::successor(&path, &follower).unwrap().is_none());
    log.reopen().unwrap();
    log.write(Stream::Stdout, b"three\n").unwrap();
    assert_eq!(
        lines(&fs::read_to_string(&aside).unwrap()),
        ["one", "begun"]
    );
    assert_eq!(lines(&fs::read_to_string(&path).unwrap()), ["three"]);
    let mut next = follow::successor(&path, &follower).unwrap().unwrap();
    let mut text = String::new();
    next.read_to_string(&mut text).unwrap();
    assert_eq!(lines(&text), ["three"]);
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Log::open(dir.path(), Limits::default()).is_err());
    let error = Log::open(Path::new("/dev/null"), Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "it is not a regular file");
}

#[test]
fn a_link_in_the_logs_place_leads_to_no_file_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, path) = (dir.path().join("shadow"), dir.path().join("0.log"));
    fs::write(&secret, "root").unwrap();
    std::os::unix::fs::symlink(&secret, &path).unwrap();
    assert!(Log::open(&path, Limits::default()).is_err());
    assert_eq!(fs::read_to_string(&secret).unwrap(), "root");
}

/// As `corten logs -f` reads: everything, while files are rotated under its eyes.
#[test]
fn a_follower_gets_every_record_once() {
    const LINES: usize = 20_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    // So many files that none is removed before it was read.
    let mut log = Log::open(&path, limits(5_000, 1000)).unwrap();
    let done = AtomicBool::new(false);
    let mut file = File::open(&path).unwrap();
    let text = std::thread::scope(|scope| {
        let (done, path) = (&done, &path);
        let follower = scope.spawn(move || {
            let mut text = String::new();
            loop {
                let finished = done.load(Ordering::SeqCst);
                file.read_to_string(&mut text).unwrap();
                match follow::successor(path, &file).unwrap() {
                    Some(next) => {
                        file.read_to_string(&mut text).unwrap();
                        file = next;
                    }
                    None if finished => return text,
                    None => {}
                }
            }
        });
        for n in (0..LINES).step_by(10) {
            let burst: Vec<u8> = (n..n + 10).flat_map(line).collect();
            log.write(Stream::Stdout, &burst).unwrap();
        }
        done.store(true, Ordering::SeqCst);
        follower.join().unwrap()
    });
    let seen: Vec<usize> = lines(&text).iter().map(|l| l.parse().unwrap()).collect();
    assert!(seen.iter().copied().eq(0..LINES), "{} lines", seen.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rotation_loses_and_tears_nothing(
        size in 300u64..1000,
        pieces in proptest::collection::vec((any::<bool>(), proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200)), 0..20),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&path, limits(size, 10_000)).unwrap();
        let (mut sent, mut all) = (Vec::new(), Vec::new());
        for (renamed, bytes) in &pieces {
            log.write(Stream::Stderr, bytes).unwrap();
            sent.extend_from_slice(bytes);
            if *renamed {
                // What a restart of the writer does.
                log.finish().unwrap();
                log = Log::open(&path, limits(size, 10_000)).unwrap();
            }
        }
        log.finish().unwrap();
        for file in follow::files(&path) {
            let bytes = fs::read(&file).unwrap();
            let single = bytes.iter().filter(|b| **b == b'\n').count() <= 1;
            prop_assert!(bytes.len() as u64 <= size || single);
            all.extend(bytes);
        }
        let mut back = Vec::new();
        for record in all.split_inclusive(|b| *b == b'\n') {
            let rest = &record[..record.len() - 1];
            back.extend_from_slice(&rest[40..]);
            if rest[38] == b'F' {
                back.push(b'\n');
            }
        }
        prop_assert!(back == sent);
    }
}

/// A file whose size is sealed: as on a full disk, a write stops in the middle, and the next fails.
#[test]
fn what_a_full_disk_swallows_is_counted() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let full = memfd_create("full", MemfdFlags::ALLOW_SEALING).unwrap();
    // Room for one record and a half, before the end of a page: that far the kernel writes.
    rustix::fs::ftruncate(&full, 4096).unwrap();
    rustix::fs::seek(&full, rustix::fs::SeekFrom::Start(4096 - 75)).unwrap();
    fcntl_add_seals(&full, SealFlags::GROW).unwrap();
    let mut log = LogFile::open(&path, Limits::default()).unwrap();
    let disk = std::mem::replace(&mut log.file, full.into());
    let records: Vec<String> = (0..4).map(log_line).collect();
    let why = log.append(records.concat().as_bytes()).unwrap_err();
    assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
    // Told once.
    log.append(records[3].as_bytes()).unwrap();
    let told = log.finish().unwrap_err().to_string();
    let mut first = vec![0; 75];
    log.file.read_exact_at(&mut first, 4096 - 75).unwrap();
    log.file = disk;
    log.append(records[0].as_bytes()).unwrap();
    log.finish().unwrap();
    let text = String::from_utf8(first).unwrap() + &fs::read_to_string(&path).unwrap();
    // The second record was completed first, and the third, fourth and fourth again are named.
    assert!(told.starts_with("3 records of 150 bytes"), "{told}");
    let note = "stderr F [corten: 3 records of 150 bytes were lost here: ";
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[2][31..].starts_with(note), "{text}");
    let whole = [&records[0], &records[1], &records[0]].map(|r| r.trim_end());
    assert_eq!([lines[0], lines[1], lines[3]], whole);
    assert_eq!(lines.len(), 4);
}
