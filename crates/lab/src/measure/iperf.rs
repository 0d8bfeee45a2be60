//! Raw TCP by iperf3: the limit that ratios are taken of.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::exec;
use crate::net::namespace::Namespace;

/// The port of iperf3.
pub(crate) const PORT: u16 = 5201;

/// An iperf3 server that ends when dropped.
#[derive(Debug)]
pub(crate) struct Server(Child);

impl Server {
    /// Starts it, and waits until it listens.
    pub(crate) fn start(host: &Namespace) -> Result<Self> {
        let child = host
            .command("iperf3")
            .args(["-s", "-p", &PORT.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start iperf3")?;
        let server = Self(child);
        for _ in 0..100 {
            let listening = host.within(|| std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok())?;
            if listening {
                return Ok(server);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        bail!("iperf3 does not listen on port {PORT} of {}", host.name())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Measures one TCP flow with CUBIC from a host; Gbit/s as received.
pub(crate) fn measure(host: &Namespace, address: &str, port: u16, seconds: u32) -> Result<f64> {
    measure_after(host, address, port, 0, seconds)
}

/// The same, after a ramp that does not count.
pub(crate) fn measure_after(
    host: &Namespace,
    address: &str,
    port: u16,
    ramp: u32,
    seconds: u32,
) -> Result<f64> {
    let mut command = host.command("iperf3");
    command.args(["-c", address, "-p", &port.to_string(), "-C", "cubic", "-J"]);
    command.args(["-O", &ramp.to_string(), "-t", &seconds.to_string()]);
    let output = exec::run(command, Duration::from_secs(u64::from(ramp + seconds) + 20))?;
    received(&output.stdout)
}

/// What the receiver counted, in Gbit/s.
fn received(json: &str) -> Result<f64> {
    let report: Value = serde_json::from_str(json).context("iperf3 did not print JSON")?;
    if let Some(error) = report.get("error").and_then(Value::as_str) {
        bail!("iperf3: {error}");
    }
    let bits = report.pointer("/end/sum_received/bits_per_second").and_then(Value::as_f64);
    Ok(bits.context("iperf3 printed no result")? / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_figure_counts() {
        let json = r#"{"end":{"sum_sent":{"bits_per_second":3e9},"sum_received":{"bits_per_second":2e9}}}"#;
        assert_eq!(received(json).unwrap(), 2.0);
        assert!(
            received(r#"{"error":"unable to connect"}"#)
                .unwrap_err()
                .to_string()
                .contains("unable to connect")
        );
        assert!(received("{}").is_err());
    }
}
