//! Stdio under bad circumstances: slow, dead and missing readers, loggers of every kind, for init and for execs.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use corten_shim::attach::{self, Hello};
use corten_shim::client::{self, CreateOptions, CreateRequest, Stdio};
use corten_spec::Kind;

use super::rig::{Rig, eventually, process};

/// A process with chosen stdio: a container's init, or an exec in one that sleeps.
struct Run {
    rig: Rig,
    id: &'static str,
    script: String,
}

const INIT_AND_EXEC: [bool; 2] = [false, true];

impl Run {
    fn new(exec: bool, script: &str) -> Self {
        let mut rig = Rig::new(if exec { "sleep 1000" } else { script });
        if exec {
            Self::create(&mut rig, Stdio::default()).unwrap();
            rig.client().start("").unwrap();
        }
        Self {
            rig,
            id: if exec { "e" } else { "" },
            script: script.into(),
        }
    }

    fn create(rig: &mut Rig, stdio: Stdio) -> Result<u32, corten_shim::Error> {
        let bundle = rig.folder.path().into();
        rig.client().create(CreateRequest {
            checkpoint: Default::default(),
            bundle,
            rootfs: Vec::new(),
            stdio,
            options: CreateOptions::default(),
        })
    }

    fn try_start(&mut self, stdio: Stdio) -> Result<u32, corten_shim::Error> {
        match self.id {
            "" => {
                Self::create(&mut self.rig, stdio)?;
            }
            id => {
                let program = process(&["/bin/sh", "-c", &self.script], stdio.terminal);
                self.rig.client().exec(id, stdio, &program).unwrap();
            }
        }
        self.rig.client().start(self.id)
    }

    fn start(&mut self, stdio: Stdio) {
        self.try_start(stdio).unwrap();
    }

    fn wait(&mut self) -> u32 {
        self.rig.client().wait(self.id).unwrap().status
    }

    fn path(&self, name: &str) -> String {
        self.rig.path(name).display().to_string()
    }

    fn fifo(&self, name: &str) -> String {
        fifo(&self.rig.path(name))
    }

    fn shim_log(&self) -> String {
        fs::read_to_string(self.rig.path("shim.log")).unwrap()
    }

    fn finish(mut self) {
        if self.id == "e" {
            self.rig.client().delete("e").unwrap();
            self.rig.client().kill("", 9, false).unwrap();
            self.rig.client().wait("").unwrap();
        }
        self.rig.finish();
    }
}

fn fifo(path: &Path) -> String {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
    path.display().to_string()
}

/// Opened at once, whether or not the other end is; then blocks as usual.
fn open(path: &str, write: bool) -> File {
    let nonblock = rustix::fs::OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(!write).write(write);
    let file = options
        .custom_flags(nonblock.bits() as i32)
        .open(path)
        .unwrap();
    let flags = rustix::fs::fcntl_getfl(&file).unwrap();
    rustix::fs::fcntl_setfl(&file, flags - nonblock).unwrap();
    file
}

fn stdio(stdin: &str, stdout: &str, stderr: &str) -> Stdio {
    Stdio {
        terminal: false,
        stdin: stdin.into(),
        stdout: stdout.into(),
        stderr: stderr.into(),
    }
}

/// Kilobytes that the shim has of memory of its own.
fn private(pid: u32) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let fields = smaps.lines().filter(|l| l.starts_with("Private_Dirty:"));
    fields
        .filter_map(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

/// Megabytes of a text of numbers, none like another.
fn text() -> Vec<Vec<u8>> {
    let megabyte = |n: u32| {
        let words = (n << 18..(n + 1) << 18).map(|i| i.wrapping_mul(0x9e37_79b9).to_le_bytes());
        words.flatten().collect()
    };
    (0..TEXT).map(megabyte).collect()
}

/// Then it begins again.
const TEXT: u32 = 31;

/// Through stdin and stdout or stderr, with a reader that stops now and then.
fn through(megabytes: u32, exec: bool, to_stderr: bool) {
    let mut run = Run::new(exec, if to_stderr { "cat >&2" } else { "cat" });
    let (input, output) = (run.fifo("in"), run.fifo("out"));
    let mut reader = open(&output, false);
    let before = private(run.rig.shim_pid);
    match to_stderr {
        true => run.start(stdio(&input, "", &output)),
        false => run.start(stdio(&input, &output, "")),
    }
    let mut writer = open(&input, true);
    let text = std::sync::Arc::new(text());
    let sent = text.clone();
    let writes = std::thread::spawn(move || {
        (0..megabytes).for_each(|n| writer.write_all(&sent[(n % TEXT) as usize]).unwrap());
    });
    let pid = run.rig.shim_pid;
    let reads = std::thread::spawn(move || {
        let mut got = vec![0; 1 << 20];
        let mut most = 0;
        for n in 0..megabytes {
            if n % 16 == 0 {
                std::thread::sleep(Duration::from_millis(20));
                most = most.max(private(pid));
            }
            reader.read_exact(&mut got).unwrap();
            assert!(got == text[(n % TEXT) as usize], "megabyte {n} differs");
        }
        assert_eq!(reader.read(&mut got).unwrap(), 0);
        most
    });
    assert_eq!(run.wait(), 0);
    writes.join().unwrap();
    let most = reads.join().unwrap();
    assert!(most < before + 512, "{most} KiB of {before}");
    run.finish();
}

#[test]
fn much_goes_through_each_stream_unchanged_and_takes_no_memory() {
    for exec in INIT_AND_EXEC {
        for to_stderr in [false, true] {
            through(32, exec, to_stderr);
        }
    }
}

#[test]
fn a_gigabyte_goes_through_stdin_and_stdout() {
    through(1024, false, false);
}

#[test]
fn a_gigabyte_goes_through_stdin_and_stderr() {
    through(1024, false, true);
}

#[test]
fn a_gigabyte_goes_through_an_execs_streams() {
    through(1024, true, false);
}

#[test]
fn a_reader_dies_and_the_next_goes_on_where_it_stopped() {
    for exec in INIT_AND_EXEC {
        let mut run = Run::new(exec, "seq 1 50000");
        let output = run.fifo("out");
        let mut first = open(&output, false);
        run.start(stdio("", &output, ""));
        let mut text = vec![0; 100_000];
        first.read_exact(&mut text).unwrap();
        drop(first);
        std::thread::sleep(Duration::from_millis(50));
        open(&output, false).read_to_end(&mut text).unwrap();
        let numbers: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
        assert!(text == numbers.as_bytes());
        assert_eq!(run.wait(), 0);
        run.finish();
    }
}

#[test]
fn a_writer_that_dies_is_the_end_of_input() {
    for exec in INIT_AND_EXEC {
        let mut run = Run::new(exec, "cat; echo end");
        let (input, output) = (run.fifo("in"), run.path("out"));
        run.start(stdio(&input, &format!("file://{output}"), ""));
        open(&input, true).write_all(b"words ").unwrap();
        assert_eq!(run.wait(), 0);
        assert_eq!(fs::read_to_string(output).unwrap(), "words end\n");
        run.finish();
    }
}

#[test]
fn nobody_at_the_other_end_holds_nothing_up() {
    for exec in INIT_AND_EXEC {
        // What fits into the FIFO waits there; nobody writes to the other.
        let mut run = Run::new(exec, "echo words");
        let (input, output) = (run.fifo("in"), run.fifo("out"));
        run.start(stdio(&input, &output, &output));
        let begun = Instant::now();
        assert_eq!(run.wait(), 0);
        assert!(begun.elapsed() < Duration::from_secs(1));
        // One that comes late still gets it.
        let mut late = open(&output, false);
        let mut words = [0; 6];
        late.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"words\n");
        run.finish();
        // What does not fit blocks the process, and not its end.
        let mut run = Run::new(exec, "seq 1 100000");
        let output = run.fifo("out");
        run.start(stdio("", &output, ""));
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(run.rig.client().state(run.id).unwrap().status, 2);
        let id = run.id;
        run.rig.client().kill(id, 9, false).unwrap();
        let begun = Instant::now();
        assert_eq!(run.wait(), 137);
        assert!(begun.elapsed() < Duration::from_secs(4));
        run.finish();
    }
}

#[test]
fn a_reader_that_stops_and_lives_is_waited_for_so_long() {
    let mut run = Run::new(false, "seq 1 1000; exit 5");
    let output = run.fifo("out");
    let mut reader = open(&output, false);
    run.start(stdio("", &output, ""));
    let begun = Instant::now();
    let reads = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(3500));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text.lines().count()
    });
    assert_eq!(run.wait(), 5);
    assert!(
        begun.elapsed() > Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(reads.join().unwrap(), 1000);
    run.finish();
}

/// A client may open its end in a thread of its own, which is late, and deletes the process only after it has seen the end.
#[test]
fn a_reader_that_comes_after_the_exit_sees_the_end_without_a_delete() {
    for (script, expected) in [("echo late", "late\n"), ("true", "")] {
        let mut run = Run::new(true, script);
        let (output, error) = (run.fifo("out"), run.fifo("err"));
        run.start(stdio("", &output, &error));
        assert_eq!(run.wait(), 0);
        std::thread::sleep(Duration::from_millis(300));
        for (fifo, expected) in [(output, expected), (error, "")] {
            let (sender, receiver) = std::sync::mpsc::channel();
            // Blocks in being opened for as long as there is no writer.
            std::thread::spawn(move || sender.send(fs::read_to_string(fifo).unwrap()));
            let text = receiver.recv_timeout(Duration::from_secs(5));
            assert_eq!(text.as_deref(), Ok(expected), "{script}");
        }
        run.finish();
    }
}

#[test]
fn another_that_writes_on_does_not_hold_the_exit() {
    let mut run = Run::new(true, "yes & echo mine");
    let output = run.fifo("out");
    let mut reader = open(&output, false);
    run.start(stdio("", &output, ""));
    let reads = std::thread::spawn(move || {
        let (mut all, mut piece) = (0, [0; 65536]);
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            all += n;
        }
        all
    });
    let begun = Instant::now();
    assert_eq!(run.wait(), 0);
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    run.finish();
    assert!(reads.join().unwrap() > 0);
}

#[test]
fn files_of_every_kind() {
    for exec in INIT_AND_EXEC {
        let mut run = Run::new(exec, "echo out; echo err >&2");
        let deep = run.path("a/b/c");
        let uri = format!("file://{deep}");
        run.start(stdio("", &uri, &uri));
        assert_eq!(run.wait(), 0);
        let text = fs::read_to_string(deep).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", "out"]);
        run.finish();
        // A full disk costs the output and not the process; the loss is named.
        let mut run = Run::new(exec, "seq 1 10000; exit 3");
        run.start(stdio("", "file:///dev/full", ""));
        assert_eq!(run.wait(), 3);
        let log = run.shim_log();
        assert!(log.contains("No space left"), "{log}");
        let id = run.id;
        run.rig.client().state(id).unwrap();
        run.finish();
    }
    let mut run = Run::new(false, "true");
    let folder = format!("file://{}", run.rig.folder.path().display());
    let refused = run.try_start(stdio("", &folder, "")).unwrap_err();
    assert_eq!(refused.kind(), Kind::Invalid);
    assert!(refused.to_string().ends_with("is a folder"), "{refused}");
    run.rig.client.take().unwrap().shutdown().unwrap();
    run.rig.assert_clean();
}

/// A logger: a shell script whose first argument is a folder.
fn logger(run: &Run, scheme: &str, script: &str) -> String {
    let path = run.rig.path("logger");
    fs::write(
        &path,
        format!("#!/bin/sh\ncd \"$2\"\necho $$ >pid\n{script}\n"),
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    let folder = run.rig.folder.path().display();
    format!("{scheme}://{}?in={folder}", path.display())
}

fn is_gone(run: &Run) -> bool {
    let pid = fs::read_to_string(run.rig.path("pid")).unwrap();
    !Path::new("/proc").join(pid.trim()).exists()
}

#[test]
fn loggers_that_fail_before_they_are_ready_refuse_the_start() {
    for (scheme, script) in [("binary", "exit 1"), ("binary-v2", "exec 5>&-; cat <&3")] {
        let mut run = Run::new(true, "echo words");
        let uri = logger(&run, scheme, script);
        let refused = run.try_start(stdio("", &uri, &uri)).unwrap_err();
        assert!(
            refused.to_string().ends_with("ended before it was ready"),
            "{refused}"
        );
        eventually("the logger's end", || is_gone(&run));
        run.finish();
    }
}

#[test]
fn loggers_get_everything_and_end_afterwards() {
    for exec in INIT_AND_EXEC {
        for (scheme, ready) in [
            ("binary", "exec 5>&-"),
            ("binary-v2", "echo >&5; exec 5>&-"),
        ] {
            let mut run = Run::new(exec, "seq 1 30000; echo err >&2");
            let script = format!("{ready}\ncat <&3 >out\ncat <&4 >err\necho done >done");
            let uri = logger(&run, scheme, &script);
            run.start(stdio("", &uri, &uri));
            assert_eq!(run.wait(), 0);
            let done = run.rig.path("done");
            eventually("the logger's last word", || done.exists());
            let out = fs::read_to_string(run.rig.path("out")).unwrap();
            assert_eq!(out.lines().count(), 30_000);
            assert_eq!(fs::read_to_string(run.rig.path("err")).unwrap(), "err\n");
            eventually("the logger's end", || is_gone(&run));
            run.finish();
        }
    }
}

#[test]
fn a_logger_that_ends_early_is_named_and_the_container_goes_on() {
    for exec in INIT_AND_EXEC {
        let mut run = Run::new(exec, "echo one; sleep 0.3; seq 1 100000; exit 4");
        let uri = logger(&run, "binary", "exec 5>&-; read x <&3");
        run.start(stdio("", &uri, &uri));
        assert_eq!(run.wait(), 4);
        assert!(
            run.shim_log().contains("the logger of"),
            "{}",
            run.shim_log()
        );
        run.finish();
    }
}

#[test]
fn a_logger_that_closes_one_pipe_keeps_the_other() {
    let mut run = Run::new(false, "seq 1 100000; echo err >&2");
    let uri = logger(
        &run,
        "binary",
        "exec 3<&-; exec 5>&-; cat <&4 >err; echo >done",
    );
    run.start(stdio("", &uri, &uri));
    assert_eq!(run.wait(), 0);
    let done = run.rig.path("done");
    eventually("the logger's last word", || done.exists());
    assert_eq!(fs::read_to_string(run.rig.path("err")).unwrap(), "err\n");
    run.finish();
}

#[test]
fn a_logger_that_reads_nothing_is_ended_with_its_container() {
    let mut run = Run::new(false, "seq 1 100000");
    let uri = logger(&run, "binary", "exec 5>&-; exec sleep 1000");
    run.start(stdio("", &uri, ""));
    std::thread::sleep(Duration::from_millis(100));
    run.rig.client().kill("", 9, false).unwrap();
    assert_eq!(run.wait(), 137);
    run.rig.client().delete("").unwrap();
    let pid = fs::read_to_string(run.rig.path("pid")).unwrap();
    run.rig.client.take().unwrap().shutdown().unwrap();
    // Its new parent reaps it.
    let stat = format!("/proc/{}/stat", pid.trim());
    eventually("the logger's end", || {
        fs::read_to_string(&stat).map_or(true, |s| s.contains(") Z "))
    });
    run.rig.assert_clean();
}

#[test]
fn a_killed_shim_is_the_end_of_file_to_its_logger() {
    let mut run = Run::new(false, "echo words; sleep 1000");
    let uri = logger(&run, "binary", "exec 5>&-; cat <&3 >out; echo >done");
    run.start(stdio("", &uri, &uri));
    let shim = rustix::process::Pid::from_raw(run.rig.shim_pid as i32).unwrap();
    let out = run.rig.path("out");
    eventually("the first words", || {
        fs::read_to_string(&out).is_ok_and(|t| t == "words\n")
    });
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    rustix::process::waitpid(Some(shim), rustix::process::WaitOptions::empty()).unwrap();
    let done = run.rig.path("done");
    // The container's own end of the pipe leads to the shim, not to the logger.
    eventually("the logger's last word", || done.exists());
}

#[test]
fn others_go_on_while_a_logger_is_awaited() {
    let mut rig = Rig::new("cat");
    let options = rig.options();
    rig.create(false, options).unwrap();
    rig.client().start("").unwrap();
    let mut run = Run {
        rig,
        id: "e",
        script: "echo never".into(),
    };
    let uri = logger(&run, "binary", "exec sleep 1000");
    let program = process(&["/bin/true"], false);
    run.rig
        .client()
        .exec("e", stdio("", &uri, &uri), &program)
        .unwrap();
    let begun = Instant::now();
    let mut second = client::connect(run.rig.folder.path(), &run.rig.id).unwrap();
    let starts = std::thread::spawn(move || second.start("e").unwrap_err());
    let hello = Hello {
        stdin: true,
        stdout: true,
        ..Hello::default()
    };
    let mut attached = attach::connect(run.rig.folder.path(), &hello).unwrap();
    eventually("the logger", || run.rig.path("pid").exists());
    for n in 0..50 {
        let words = format!("words {n}\n");
        attached.stdin(words.as_bytes()).unwrap();
        let frame = attached.read_frame().unwrap().unwrap();
        assert_eq!(frame.payload, words.as_bytes());
    }
    let twice = run.rig.client().start("e").unwrap_err();
    assert_eq!(twice.kind(), Kind::AlreadyExists);
    assert!(begun.elapsed() < Duration::from_secs(5));
    let refused = starts.join().unwrap().to_string();
    assert!(
        refused.ends_with("was not ready after 10 seconds"),
        "{refused}"
    );
    eventually("the logger's end", || is_gone(&run));
    run.finish();
}

#[test]
fn a_terminal_is_resized_a_thousand_times_while_output_flows() {
    for exec in INIT_AND_EXEC {
        let script = "trap 'echo size $(stty size)' WINCH; while [ ! -e /tmp/stop ]; do echo flow; done; stty size; echo end";
        let mut run = Run::new(exec, script);
        if !exec {
            // The specification decides what init gets.
            let config = run.rig.path("config.json");
            let text = fs::read_to_string(&config).unwrap();
            fs::write(
                &config,
                text.replace("\"terminal\":false", "\"terminal\":true"),
            )
            .unwrap();
        }
        let output = run.fifo("out");
        let mut reader = open(&output, false);
        run.start(Stdio {
            terminal: true,
            ..stdio("", &output, "")
        });
        let reads = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).unwrap();
            String::from_utf8(bytes).unwrap()
        });
        let id = run.id;
        for n in 1..=1000 {
            run.rig.client().resize(id, n, 1100 - n).unwrap();
        }
        std::thread::sleep(Duration::from_millis(50));
        fs::write(run.rig.path("rootfs/tmp/stop"), "").unwrap();
        assert_eq!(run.wait(), 0);
        let text = reads.join().unwrap();
        assert!(
            text.contains("size 1000 100\r\n"),
            "no signal told the last size: {:?}",
            &text[text.len().saturating_sub(300)..]
        );
        assert!(
            text.ends_with("1000 100\r\nend\r\n"),
            "{:?}",
            &text[text.len() - 60..]
        );
        run.finish();
    }
}

/// A supervisor with nothing to do does nothing.
#[test]
fn an_idle_shim_never_wakes() {
    let mut runs: Vec<(&str, Run)> = ["log", "attached", "no reader", "logger", "terminal"]
        .map(|name| (name, Run::new(false, "sleep 1000")))
        .into();
    let mut clients = Vec::new();
    for (name, run) in &mut runs {
        let mut options = CreateOptions::default();
        let mut streams = Stdio::default();
        match *name {
            "log" => options = run.rig.options(),
            "attached" => {
                options = run.rig.options();
                streams = Stdio::attach(false);
            }
            "no reader" => streams = stdio(&run.fifo("in"), &run.fifo("out"), ""),
            "logger" => {
                let uri = logger(run, "binary", "exec 5>&-; cat <&3");
                streams = stdio("", &uri, &uri);
            }
            _ => {
                streams = stdio("", &run.fifo("out"), "");
                streams.terminal = true;
                let config = run.rig.path("config.json");
                let text = fs::read_to_string(&config).unwrap();
                fs::write(
                    &config,
                    text.replace("\"terminal\":false", "\"terminal\":true"),
                )
                .unwrap();
            }
        }
        let bundle = run.rig.folder.path().into();
        let request = CreateRequest {
            bundle,
            stdio: streams,
            options,
            ..CreateRequest::default()
        };
        run.rig.client().create(request).unwrap();
        run.rig.client().start("").unwrap();
        if *name == "attached" {
            let hello = Hello {
                stdin: true,
                stdout: true,
                ..Hello::default()
            };
            clients.push(attach::connect(run.rig.folder.path(), &hello).unwrap());
        }
    }
    let switches = |run: &Run| {
        let status = fs::read_to_string(format!("/proc/{}/status", run.rig.shim_pid)).unwrap();
        let lines = status
            .lines()
            .filter(|l| l.contains("ctxt_switches") || l.starts_with("Threads"));
        let lines: Vec<&str> = lines.filter(|l| !l.starts_with("non")).collect();
        lines.join(" ")
    };
    std::thread::sleep(Duration::from_secs(1));
    let before: Vec<String> = runs.iter().map(|(_, run)| switches(run)).collect();
    std::thread::sleep(Duration::from_secs(3));
    for ((name, run), before) in runs.iter().zip(before) {
        assert_eq!(switches(run), before, "{name}");
        assert!(before.contains("Threads:\t1"), "{before}");
    }
    drop(clients);
    for (_, mut run) in runs {
        run.rig.client().kill("", 9, false).unwrap();
        run.wait();
        run.finish();
    }
}

#[test]
fn a_log_rotates_and_reopens_while_it_is_written() {
    let mut rig = Rig::new("seq 1 20000; read x; echo last");
    let mut options = rig.options();
    options.log_max_size = 100_000;
    options.log_max_files = 50;
    rig.create(false, options).unwrap();
    let hello = Hello {
        stdin: true,
        ..Hello::default()
    };
    let mut attached = attach::connect(rig.folder.path(), &hello).unwrap();
    rig.client().start("").unwrap();
    let log = rig.path("log");
    let lines = || -> Vec<String> {
        let files = corten_shim::log::follow::files(&log).into_iter();
        // While it is rotated a name may lead nowhere; then there are too few lines.
        let texts = files.filter_map(|f| fs::read_to_string(f).ok());
        texts
            .collect::<String>()
            .lines()
            .map(|l| l[40..].into())
            .collect()
    };
    eventually("all lines", || lines().len() == 20_000);
    assert!(
        lines()
            .iter()
            .enumerate()
            .all(|(n, l)| *l == (n + 1).to_string())
    );
    let aside = rig.path("log.aside");
    fs::rename(&log, &aside).unwrap();
    rig.client().reopen_log().unwrap();
    attached.stdin(b"\n").unwrap();
    rig.client().wait("").unwrap();
    let text = fs::read_to_string(&log).unwrap();
    assert!(
        text.ends_with(" stdout F last\n") && text.lines().count() == 1,
        "{text}"
    );
    rig.finish();
    let mut none = Run::new(true, "true");
    let refused = none.rig.client().reopen_log().unwrap_err();
    assert!(refused.to_string().ends_with("has no log"), "{refused}");
    none.start(Stdio::default());
    none.wait();
    none.finish();
}

/// The containers of a pod share a shim; each more costs it little.
#[test]
fn another_container_costs_a_shim_little_memory() {
    const MORE: u64 = 8;
    let mut first = Run::new(false, "sleep 1000");
    let (input, output) = (first.fifo("in"), first.fifo("out"));
    first.start(stdio(&input, &output, ""));
    let shim = first.rig.shim_pid;
    let settled = || {
        std::thread::sleep(Duration::from_millis(500));
        private(shim)
    };
    let before = settled();
    let mut others = Vec::new();
    for _ in 0..MORE {
        let rig = Rig::unspawned("seq 1 20000; sleep 1000");
        let mut client = client::connect(first.rig.folder.path(), &rig.id).unwrap();
        let (input, output) = (fifo(&rig.path("in")), fifo(&rig.path("out")));
        let mut reader = open(&output, false);
        let request = CreateRequest {
            bundle: rig.folder.path().into(),
            stdio: stdio(&input, &output, ""),
            ..CreateRequest::default()
        };
        client.create(request).unwrap();
        client.start("").unwrap();
        // All of it: what a living reader has not read holds the exit.
        reader.read_exact(&mut [0; 108_894]).unwrap();
        others.push((rig, client, reader));
    }
    let each = settled().saturating_sub(before) / MORE;
    assert!(each < 150, "{each} KiB each beside {before}");
    for (rig, mut client, _reader) in others {
        client.kill("", 9, false).unwrap();
        client.wait("").unwrap();
        client.delete("").unwrap();
        rig.assert_clean();
    }
    first.rig.client().kill("", 9, false).unwrap();
    first.wait();
    first.finish();
}
