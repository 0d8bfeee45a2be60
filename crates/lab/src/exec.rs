//! Runs other programs: bounded in time, with errors that name the command and show what it said.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Longest wait for a tool of the system (ip, nft, tc): they answer in milliseconds, also on a loaded machine.
const TOOL_WAIT: Duration = Duration::from_secs(10);

/// How often an ended process is looked for; short beside every figure that includes a process start.
const POLL: Duration = Duration::from_millis(2);

/// What a process left behind.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a system tool; its standard output, if it succeeds.
pub(crate) fn tool(argv: &[&str]) -> Result<String> {
    let (program, args) = argv.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args);
    succeed(command, TOOL_WAIT)
}

/// Runs a command; its standard output, if it succeeds in time.
pub(crate) fn succeed(command: Command, within: Duration) -> Result<String> {
    let shown = shown(&command);
    let output = run(command, within)?;
    if !output.status.success() {
        bail!("`{shown}` failed ({}): {}", output.status, output.stderr.trim());
    }
    Ok(output.stdout)
}

/// Runs a command to its end, or kills it when the time is over.
pub(crate) fn run(mut command: Command, within: Duration) -> Result<Output> {
    let shown = shown(&command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait(&mut child, within)?;
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = |reader: Option<thread::JoinHandle<String>>| {
        reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
    };
    let (stdout, stderr) = (text(stdout), text(stderr));
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => bail!("`{shown}` did not end within {within:?}; it said: {}{}", stdout.trim(), stderr.trim()),
    }
}

/// Waits for a process to end; `None` when the time is over.
pub(crate) fn wait(child: &mut Child, within: Duration) -> Result<Option<ExitStatus>> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// A command as a person would type it.
fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = tool(&["sh", "-c", "echo broken >&2; exit 3"]).unwrap_err().to_string();
        assert!(error.contains("sh -c") && error.contains("broken") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let mut command = Command::new("sleep");
        command.arg("30");
        let started = Instant::now();
        let error = run(command, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("did not end within 50ms"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
}
