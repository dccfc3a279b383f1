use std::process::Command;
use std::time::Duration;

use corten_testkit::{Result, Terminal};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn a_program_has_a_terminal_of_the_size_asked_for() -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.1; done",
    ]);
    let mut terminal = Terminal::start(&shell, 20, 70)?;
    terminal.expect("20 70", SOON)?;
    terminal.expect("ready", SOON)?;
    terminal.resize(33, 99)?;
    terminal.expect("33 99", SOON)?;
    assert_eq!(terminal.wait(SOON)?, 7);
    Ok(())
}

#[test]
fn what_is_typed_arrives() -> Result<()> {
    let mut terminal = Terminal::start(&Command::new("cat"), 24, 80)?;
    terminal.send("hello\n")?;
    terminal.expect("hello", SOON)?;
    terminal.expect("hello", SOON)?;
    terminal.send("\x04")?;
    assert_eq!(terminal.wait(SOON)?, 0);
    Ok(())
}
