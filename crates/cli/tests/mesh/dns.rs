//! Names of the mesh: `up --dns` and `name list`.

use std::io::{Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use super::world::*;

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const OPT: u16 = 41;
const ANY: u16 = 255;
const IN: u16 = 1;

const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// A query as RFC 1035 §4 has it.
fn query(name: &str, kind: u16, class: u16) -> Vec<u8> {
    let mut bytes = vec![0x12, 0x34, 0x01, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
struct Record {
    name: String,
    kind: u16,
    data: Vec<u8>,
}

/// An answer taken apart.
#[derive(Debug)]
struct Answer {
    code: u8,
    authoritative: bool,
    recursion: bool,
    answers: Vec<Record>,
    authority: Vec<Record>,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// A name, with compression; where it ends.
fn name_at(bytes: &[u8], mut at: usize) -> (String, usize) {
    let (mut name, mut end) = (String::new(), None);
    for _ in 0..128 {
        let len = usize::from(bytes[at]);
        if len >= 0xc0 {
            end.get_or_insert(at + 2);
            at = usize::from(u16_at(bytes, at) & 0x3fff);
        } else if len == 0 {
            return (name, end.unwrap_or(at + 1));
        } else {
            name.push_str(std::str::from_utf8(&bytes[at + 1..=at + len]).unwrap());
            name.push('.');
            at += len + 1;
        }
    }
    panic!("a name without an end");
}

fn take_apart(bytes: &[u8]) -> Answer {
    assert_eq!(u16_at(bytes, 0), 0x1234, "the id of the query");
    assert!(bytes[2] & 0x80 != 0, "a response");
    let mut at = 12;
    for _ in 0..u16_at(bytes, 4) {
        at = name_at(bytes, at).1 + 4;
    }
    let mut sections = [6, 8].map(|count| {
        let records = (0..u16_at(bytes, count)).map(|_| {
            let (name, end) = name_at(bytes, at);
            let len = usize::from(u16_at(bytes, end + 8));
            at = end + 10 + len;
            Record { name, kind: u16_at(bytes, end), data: bytes[end + 10..at].to_vec() }
        });
        records.collect::<Vec<_>>()
    });
    let [answers, authority] = sections.each_mut().map(std::mem::take);
    let authoritative = bytes[2] & 0x04 != 0;
    Answer { code: bytes[3] & 15, authoritative, recursion: bytes[3] & 0x80 != 0, answers, authority }
}

fn ask_udp(to: SocketAddr, query: &[u8]) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send_to(query, to).unwrap();
    let mut buffer = [0; 4096];
    socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())
}

fn ask_tcp(stream: &mut TcpStream, query: &[u8]) -> Vec<u8> {
    stream.write_all(&[&(query.len() as u16).to_be_bytes(), query].concat()).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).unwrap();
    answer
}

fn ask(to: SocketAddr, name: &str, kind: u16) -> Answer {
    take_apart(&ask_udp(to, &query(name, kind, IN)).unwrap())
}

fn reverse(address: Ipv6Addr) -> String {
    let nibbles = address.octets().into_iter().rev().flat_map(|byte| [byte & 15, byte >> 4]);
    nibbles.map(|nibble| format!("{nibble:x}.")).collect::<String>() + "ip6.arpa"
}

/// Alice answers queries; Bob is a member too.
fn mesh(dir: &tempfile::TempDir) -> ([Node; 2], SocketAddr) {
    let mut alice = Node::at(dir, "alice");
    object(&alice.home, &["init", "--mesh", "lab", "--name", "alice"]);
    alice.up_with(|command| command.args(["--dns", "127.0.0.1:0"]));
    let bob = Node::beside(dir, "bob", &alice, &alice.ticket(1));
    alice.knows(1);
    let dns = alice.status()["dns"].as_str().unwrap().parse().unwrap();
    ([alice, bob], dns)
}

#[test]
fn members_have_names_and_nothing_else_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let ([alice, bob], dns) = mesh(&dir);
    let address = |node: &Node| node.status()["mesh_address"].as_str().unwrap().parse::<Ipv6Addr>().unwrap();

    let listed = alice.lines(&["name", "list"]);
    let names: Vec<_> = listed.iter().map(|name| name["dns"].as_str().unwrap()).collect();
    assert_eq!(names, ["alice.lab.mesh", "bob.lab.mesh"]);
    has(&listed[1], &["name", "address", "node_id", "spiffe_id", "reachable"]);
    assert_eq!(listed[1]["address"], address(&bob).to_string());
    assert_eq!(listed[1]["node_id"], bob.id());

    // A name that was asked for before it was known appears within a second or two.
    until("bob has a name", || (ask(dns, "bob.lab.mesh", AAAA).code == NOERROR).then_some(()));
    for node in [&alice, &bob] {
        let name = format!("{}.lab.mesh", node.name);
        let answer = ask(dns, &name, AAAA);
        assert!(answer.authoritative && !answer.recursion && answer.code == NOERROR, "{answer:?}");
        let octets = address(node).octets().to_vec();
        assert_eq!(answer.answers, [Record { name: format!("{name}."), kind: AAAA, data: octets }]);

        let text = format!("spiffe://lab/node/{}", node.name);
        let data = [&[text.len() as u8], text.as_bytes()].concat();
        assert_eq!(ask(dns, &name, TXT).answers, [Record { name: format!("{name}."), kind: TXT, data }]);
        assert_eq!(ask(dns, &name, ANY).answers.len(), 2);

        let pointer = ask(dns, &reverse(address(node)), PTR);
        assert_eq!((pointer.code, pointer.answers.len()), (NOERROR, 1));
        let upper = ask(dns, &name.to_uppercase(), AAAA);
        assert_eq!((upper.code, upper.answers.len()), (NOERROR, 1), "names have no case");
    }
    // It exists and has none of these; it doesn't exist; it isn't ours.
    for (name, kind, code, authority) in [
        ("bob.lab.mesh", A, NOERROR, Some(SOA)),
        ("bob.lab.mesh", PTR, NOERROR, Some(SOA)),
        ("lab.mesh", AAAA, NOERROR, Some(SOA)),
        ("nobody.lab.mesh", AAAA, NXDOMAIN, Some(SOA)),
        ("www.bob.lab.mesh", AAAA, NXDOMAIN, Some(SOA)),
        ("example.com", AAAA, REFUSED, None),
        ("mesh", SOA, REFUSED, None),
        ("other.mesh", AAAA, REFUSED, None),
        ("lab.mesh.example.com", AAAA, REFUSED, None),
        ("xlab.mesh", AAAA, REFUSED, None),
        ("", NS, REFUSED, None),
        ("1.0.0.127.in-addr.arpa", PTR, REFUSED, None),
        (reverse("fd00::1".parse().unwrap()).as_str(), PTR, REFUSED, None),
    ] {
        let answer = ask(dns, name, kind);
        assert_eq!((answer.code, answer.answers.len()), (code, 0), "{name} {kind}");
        let kinds: Vec<_> = answer.authority.iter().map(|record| record.kind).collect();
        assert_eq!(kinds, authority.into_iter().collect::<Vec<_>>(), "{name} {kind}");
        assert!(!answer.recursion);
    }
    for kind in [SOA, NS] {
        let answer = ask(dns, "lab.mesh", kind);
        assert_eq!((answer.code, answer.answers.len()), (NOERROR, 1), "the zone itself");
    }

    // A node that the mesh revoked has no name any more.
    alice.object(&["trust", "revoke", "bob", "--reason", "a test"]);
    until("bob's name goes", || (ask(dns, "bob.lab.mesh", AAAA).code == NXDOMAIN).then_some(()));
    assert_eq!(alice.lines(&["name", "list"]).len(), 1);
}

#[test]
fn queries_by_tcp_odd_ones_and_nonsense() {
    let dir = tempfile::tempdir().unwrap();
    let ([alice, _bob], dns) = mesh(&dir);
    let mut stream = TcpStream::connect(dns).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..3 {
        let answer = take_apart(&ask_tcp(&mut stream, &query("alice.lab.mesh", AAAA, IN)));
        assert_eq!((answer.code, answer.answers.len()), (NOERROR, 1));
    }
    // More than a query may have ends the connection, as does silence; others go on.
    stream.write_all(&[0xff, 0xff]).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap_or_default(), 0);

    let good = query("alice.lab.mesh", AAAA, IN);
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        bytes
    };
    let code = |query: &[u8]| ask_udp(dns, query).map(|answer| take_apart(&answer).code);
    assert_eq!(code(&changed(2, 0x29)), Some(NOTIMP), "an update");
    assert_eq!(code(&changed(5, 2)), Some(FORMERR), "two questions, one there");
    assert_eq!(code(&good[..20]), Some(FORMERR), "a name that is cut off");
    assert_eq!(code(&query("alice.lab.mesh", AAAA, 3)), Some(REFUSED), "another class");
    assert_eq!(code(&query("lab.mesh", 252, IN)), Some(REFUSED), "a transfer of the zone");
    // EDNS is answered with EDNS, and a version that nobody has with an error.
    let mut edns = changed(11, 1);
    edns.extend([0, 0, OPT as u8, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    let answer = ask_udp(dns, &edns).unwrap();
    assert_eq!((take_apart(&answer).code, u16_at(&answer, 10)), (NOERROR, 1));
    let version = edns.len() - 5;
    edns[version] = 9;
    let answer = ask_udp(dns, &edns).unwrap();
    let extended = answer[answer.len() - 6];
    assert_eq!((take_apart(&answer).answers.len(), extended), (0, 1), "BADVERS");

    // What is no query, or not even a header, gets no answer at all.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    for nonsense in [changed(2, 0x81), vec![0; 11], vec![], vec![0xff; 1500]] {
        socket.send_to(&nonsense, dns).unwrap();
        assert!(socket.recv(&mut [0; 512]).is_err(), "{nonsense:?}");
    }
    assert_eq!(code(&good), Some(NOERROR), "it goes on");

    // The port is taken.
    let second = Node::at(&dir, "second");
    object(&second.home, &["init", "--mesh", "other", "--name", "second"]);
    let mut up = second.up_command();
    let (code, text) = told(&up.args(["--dns", &dns.to_string()]).output().unwrap(), "a taken port");
    assert_eq!(code, "address_in_use");
    assert!(text.contains(&dns.to_string()) && text.contains("--dns"), "{text}");
    drop(alice);
}
