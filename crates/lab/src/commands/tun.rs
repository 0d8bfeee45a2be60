//! The TUN interface as programs of a host see it: ping, TCP, UDP and curl by name, and policies that change; then iperf3 against raw TCP.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::iperf::{self as flows, Target};
use crate::context::Context;
use crate::exec;
use crate::measure::iperf::{self, Server};
use crate::mesh::form::Mesh;
use crate::mesh::node::Node;
use crate::net::link::Medium;
use crate::net::namespace::Namespace;
use crate::net::topology::Topology;

/// Every host has its interface and its names; port 53 is free in a namespace of its own.
const CONFIG: &str = "tun = \"mesh0\"\ndns = \"127.0.0.1:53\"\n";

/// Longest wait for anything that passes at once.
const WAIT: Duration = Duration::from_secs(10);

/// How long nothing may come when nothing should: TCP repeats a segment several times meanwhile.
const SILENT: Duration = Duration::from_secs(2);

/// Between attempts.
const POLL: Duration = Duration::from_millis(50);

/// Bytes of the stream that must come back the same; thousands of segments.
const STREAM: usize = 20_000_000;

/// UDP payloads: the smallest, one that fits a packet, and one that the kernel cuts into parts.
const DATAGRAMS: [usize; 3] = [1, 1200, 9000];

/// `meshara-lab tun`.
pub(crate) fn command(context: &Context, rounds: usize, seconds: u32) -> Result<()> {
    let topology = Topology::parse("line-3", context.seed)?;
    let (mesh, _) = context.mesh_with(topology, Medium::Veth, None, Some(CONFIG))?;
    let done = on(context, &mesh, rounds, seconds);
    context.clear(mesh);
    done
}

fn on(context: &Context, mesh: &Mesh, rounds: usize, seconds: u32) -> Result<()> {
    let (from, near, far) = (mesh.node(0)?, mesh.node(1)?, mesh.node(2)?);
    for node in &mesh.nodes {
        let status = node.get("/v1/status")?;
        ensure!(status.pointer("/tun/name").is_some(), "{} has no interface: {status}", node.name);
    }
    let _resolvers = mesh.nodes.iter().map(|node| Resolver::set(&node.host)).collect::<Result<Vec<_>>>()?;
    for (hops, to) in [("one hop", near), ("two hops", far)] {
        ping(from, to).with_context(|| format!("ping over {hops}"))?;
        tcp(from, to).with_context(|| format!("TCP over {hops}"))?;
        udp(from, to).with_context(|| format!("UDP over {hops}"))?;
        dig(from, to).with_context(|| format!("dig over {hops}"))?;
        curl(from, to).with_context(|| format!("curl by name over {hops}"))?;
        println!("{hops}: ping, TCP, UDP and curl by name pass");
    }
    policy(from, far)?;
    println!(
        "a new policy decides connections that are open: one stops, goes on when it is allowed again, and no ping is lost"
    );
    if rounds == 0 {
        return Ok(());
    }
    let _servers = [Server::start(&near.host)?, Server::start(&far.host)?];
    let through = |name, bar, node: &Node| -> Result<Target> {
        Ok(Target { name, bar: Some(bar), address: address(node)?.to_string(), port: iperf::PORT })
    };
    let targets = [flows::raw(mesh)?, through("one hop", 0.25, near)?, through("two hops", 0.15, far)?];
    let flows = flows::measure(&from.host, &targets, rounds, seconds);
    flows::report(context, "tun", &flows)
}

/// The node's mesh address.
fn address(node: &Node) -> Result<Ipv6Addr> {
    let status = node.get("/v1/status")?;
    let text = status.get("mesh_address").and_then(serde_json::Value::as_str).context("no mesh address")?;
    Ok(text.parse()?)
}

fn ping(from: &Node, to: &Node) -> Result<()> {
    let mut command = from.host.command("ping");
    // The second does not fit in one packet and travels in parts.
    command.args(["-6", "-c", "3", "-i", "0.2", "-W", "5", "-s", "3000", &address(to)?.to_string()]);
    exec::succeed(command, WAIT).map(drop)
}

/// Sends bytes to a server at `to` that sends them back.
fn tcp(from: &Node, to: &Node) -> Result<()> {
    let listener = to.host.within(|| TcpListener::bind("[::]:7001"))??;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, peer) = listener.accept()?;
        drop(listener);
        let SocketAddr::V6(_) = peer else { return Ok(()) };
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        stream.write_all(&all)
    });
    let to = SocketAddr::from((address(to)?, 7001));
    let data: Vec<u8> = (0..STREAM as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let sent = data.clone();
    let back = from.host.within(move || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&to, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.write_all(&sent)?;
        stream.shutdown(Shutdown::Write)?;
        let mut back = Vec::new();
        stream.read_to_end(&mut back)?;
        Ok(back)
    })??;
    ensure!(echo.join().is_ok_and(|echoed| echoed.is_ok()), "the server failed");
    ensure!(back == data, "{} of {} bytes came back, or others", back.len(), data.len());
    Ok(())
}

/// What every node lets members do, as a new mesh has it, and then this.
fn rules(more: &str) -> String {
    format!(
        "version = 1\n[[rule]]\nname = \"all\"\neffect = \"allow\"\nfrom = \"*\"\n\
         to = [\"mesh:*\", \"service:*\", \"tun:*\"]\n{more}"
    )
}

/// A policy that denies a port meets the connection that is open, and the next; what it doesn't name goes on.
fn policy(from: &Node, to: &Node) -> Result<()> {
    const PORT: u16 = 7004;
    let apply = |rules: String| -> Result<()> {
        let path = from.home.join("policy.toml");
        fs::write(&path, rules)?;
        from.run(&["policy", "apply", &path.to_string_lossy()]).context("a policy")
    };
    let target = SocketAddr::from((address(to)?, PORT));
    let listener = to.host.within(|| TcpListener::bind(("::", PORT)))??;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let connect = || from.host.within(move || TcpStream::connect_timeout(&target, WAIT));
    let mut stream = connect()??;
    let mut echoes = |byte: u8, within: Duration| -> Result<bool> {
        let mut back = [0];
        stream.set_read_timeout(Some(within))?;
        stream.write_all(&[byte])?;
        Ok(stream.read_exact(&mut back).is_ok() && back == [byte])
    };
    ensure!(echoes(1, WAIT)?, "no echo under the first policy");

    let denies =
        format!("[[rule]]\nname = \"closed\"\neffect = \"deny\"\nfrom = \"*\"\nto = \"tun:*/tcp:{PORT}\"\n");
    apply(rules(&denies))?;
    let deadline = Instant::now() + WAIT;
    loop {
        match connect()? {
            // Prohibited: it is in force there.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            other => ensure!(Instant::now() < deadline, "a denied port: {other:?}"),
        }
        std::thread::sleep(POLL);
    }
    ensure!(!echoes(2, SILENT)?, "an open connection outlives the policy that allowed it");
    ping(from, to).context("ping under a policy that denies a port")?;

    apply(rules(""))?;
    let mut back = [0];
    stream.set_read_timeout(Some(WAIT))?;
    stream.read_exact(&mut back).context("the connection doesn't go on when it is allowed again")?;
    ensure!(back == [2], "another byte than what waited");
    drop(stream);
    ensure!(echo.join().is_ok_and(|echoed| echoed.is_ok()), "the server failed");
    Ok(())
}

/// Datagrams of several sizes and their echoes.
fn udp(from: &Node, to: &Node) -> Result<()> {
    let server = to.host.within(|| UdpSocket::bind("[::]:7002"))??;
    server.set_read_timeout(Some(WAIT))?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = vec![0; 65_535];
        for _ in DATAGRAMS {
            let (len, peer) = server.recv_from(&mut buffer)?;
            server.send_to(buffer.get(..len).unwrap_or_default(), peer)?;
        }
        Ok(())
    });
    let to = SocketAddr::from((address(to)?, 7002));
    from.host.within(move || -> Result<()> {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(WAIT))?;
        let mut buffer = vec![0; 65_535];
        for len in DATAGRAMS {
            let data: Vec<u8> = (0..len).map(|n| (n * 31 % 253) as u8).collect();
            socket.send(&data)?;
            let came = socket.recv(&mut buffer)?;
            ensure!(buffer.get(..came) == Some(data.as_slice()), "{len} bytes came back as {came}");
        }
        Ok(())
    })??;
    ensure!(echo.join().is_ok_and(|echoed| echoed.is_ok()), "the server failed");
    Ok(())
}

/// The host's own resolver knows the node, and nothing outside the mesh.
fn dig(from: &Node, to: &Node) -> Result<()> {
    let ask = |args: &[&str]| {
        let mut command = from.host.command("dig");
        command.args(["@127.0.0.1", "+time=2", "+tries=2"]).args(args);
        exec::succeed(command, WAIT)
    };
    let name = format!("{}.lab.mesh", to.name);
    let wanted = address(to)?;
    for way in ["+notcp", "+tcp"] {
        let said = ask(&["+short", way, &name, "AAAA"])?;
        ensure!(said.trim() == wanted.to_string(), "{name} is {wanted}, dig {way} says {said:?}");
    }
    let said = ask(&["+short", &name, "TXT"])?;
    ensure!(said.trim() == format!("\"spiffe://lab/node/{}\"", to.name), "TXT of {name}: {said:?}");
    let said = ask(&["+short", "-x", &wanted.to_string()])?;
    ensure!(said.trim() == format!("{name}."), "PTR of {wanted}: {said:?}");
    for (args, status) in [
        (["nobody.lab.mesh", "AAAA"], "NXDOMAIN"),
        ([name.as_str(), "A"], "NOERROR"),
        (["example.com", "A"], "REFUSED"),
    ] {
        let said = ask(&args)?;
        ensure!(said.contains(&format!("status: {status}")), "{args:?}: not {status}: {said}");
    }
    Ok(())
}

/// curl finds the node by its name, as any program of the host would.
fn curl(from: &Node, to: &Node) -> Result<()> {
    let listener = to.host.within(|| TcpListener::bind("[::]:7003"))??;
    let name = to.name.clone();
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(WAIT))?;
        let _ = stream.read(&mut [0; 4096])?;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", name.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(name.as_bytes())
    });
    let mut command = from.host.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "8"]);
    command.arg(format!("http://{}.lab.mesh:7003/", to.name));
    let said = exec::succeed(command, WAIT)?;
    ensure!(server.join().is_ok_and(|served| served.is_ok()), "the server failed");
    ensure!(said == to.name, "curl read {said:?}");
    Ok(())
}

/// A host's `/etc/resolv.conf`, which `ip netns exec` puts in place of the machine's; gone when dropped.
struct Resolver(PathBuf);

impl Resolver {
    fn set(host: &Namespace) -> Result<Self> {
        let dir = PathBuf::from("/etc/netns").join(host.name());
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let made = Self(dir);
        fs::write(made.0.join("resolv.conf"), "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n")?;
        Ok(made)
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
