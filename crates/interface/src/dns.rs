//! Answers to DNS queries for the names of a mesh: `<name>.<mesh>.mesh`, and nothing else.
//!
//! [`Zone`] is the names as they are at a moment. It answers a query's bytes with an answer's bytes; sockets are the driver's.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{AAAA, NS, PTR, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name as DomainName, RData, Record, RecordType};
use meshara_identity::{MeshAddress, MeshName, NodeId, NodeName, SpiffeId};

/// Under this label every mesh has its zone. Nobody delegates it in the public DNS.
const TOP: &str = "mesh";
/// How long an answer may be kept: a name's address changes only when another node gets the name.
const TTL: u32 = 30;
/// How long "no such name" may be kept: new members should be found at once.
const NEGATIVE_TTL: u32 = 2;
/// Nobody transfers the zone, so how often, in seconds, means nothing; these are common values.
const REFRESH: i32 = 3600;
const RETRY: i32 = 600;
const EXPIRE: i32 = 86_400;
/// UDP payload told to others: what fits every path (DNS flag day 2020). Answers are far shorter.
const MAX_PAYLOAD: u16 = 1232;
/// Length of a DNS header.
const HEADER: usize = 12;

/// A name and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: NodeName,
    /// The node's address.
    pub address: MeshAddress,
    /// The node.
    pub node: NodeId,
    /// Its SPIFFE ID.
    pub spiffe_id: SpiffeId,
    /// Whether a route leads there.
    pub reachable: bool,
}

/// The names of a mesh at a moment.
#[derive(Debug)]
pub struct Zone {
    mesh: String,
    /// This node's own name: the zone's server.
    server: String,
    names: BTreeMap<String, Vec<Name>>,
    addresses: BTreeMap<MeshAddress, String>,
}

/// What a question is about.
enum Subject<'a> {
    Zone,
    Node(&'a Name),
    Address(&'a str),
    /// Several nodes claim the name, and nobody can tell which is meant.
    Ambiguous,
    /// The zone is ours, and has no such name.
    Nobody,
    /// Another zone.
    Outside,
}

impl Zone {
    /// A zone of these names, served by the node called `server`.
    #[must_use]
    pub fn new(mesh: &MeshName, server: &NodeName, names: Vec<Name>) -> Self {
        let addresses = names.iter().map(|name| (name.address, name.name.to_string())).collect();
        let mut by_name: BTreeMap<String, Vec<Name>> = BTreeMap::new();
        for name in names {
            by_name.entry(name.name.to_string()).or_default().push(name);
        }
        Self { mesh: mesh.to_string(), server: server.to_string(), names: by_name, addresses }
    }

    /// The answer to a query; none to what isn't one.
    #[must_use]
    pub fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let [i0, i1, flags, ..] = *query.first_chunk::<HEADER>()?;
        if flags & 0x80 != 0 {
            return None; // an answer: answering it could go on for ever
        }
        let op_code = OpCode::from_u8((flags >> 3) & 15);
        let mut answer = Message::response(u16::from_be_bytes([i0, i1]), op_code);
        answer.metadata.recursion_desired = flags & 1 != 0;
        answer.metadata.response_code = if op_code == OpCode::Query {
            match Message::from_vec(query) {
                Ok(query) if query.metadata.message_type == MessageType::Query => {
                    self.fill(&query, &mut answer)
                }
                _ => ResponseCode::FormErr,
            }
        } else {
            ResponseCode::NotImp
        };
        answer.to_vec().ok()
    }

    /// Writes the records of an answer; its code.
    fn fill(&self, query: &Message, answer: &mut Message) -> ResponseCode {
        let [question] = query.queries.as_slice() else { return ResponseCode::FormErr };
        answer.add_query(question.clone());
        if let Some(asked) = &query.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_PAYLOAD).set_version(0);
            answer.edns = Some(edns);
            if asked.version() != 0 {
                return ResponseCode::BADVERS;
            }
        }
        if question.query_class() != DNSClass::IN
            || matches!(question.query_type(), RecordType::AXFR | RecordType::IXFR)
        {
            return ResponseCode::Refused;
        }
        let subject = self.subject(question.name());
        if let Subject::Outside = subject {
            return ResponseCode::Refused;
        }
        if let Subject::Ambiguous = subject {
            return ResponseCode::ServFail;
        }
        answer.metadata.authoritative = true;
        let Some(records) = self.records(&subject, question) else { return ResponseCode::ServFail };
        if records.is_empty() && !matches!(subject, Subject::Address(_)) {
            let Some(soa) = self.soa() else { return ResponseCode::ServFail };
            answer.authorities.push(soa);
        }
        answer.add_answers(records);
        if let Subject::Nobody = subject { ResponseCode::NXDomain } else { ResponseCode::NoError }
    }

    fn subject(&self, name: &DomainName) -> Subject<'_> {
        let labels: Option<Vec<String>> =
            name.iter().map(|label| std::str::from_utf8(label).ok().map(str::to_ascii_lowercase)).collect();
        let Some(labels) = labels else { return Subject::Outside };
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels.as_slice() {
            [mesh, TOP] if *mesh == self.mesh => Subject::Zone,
            [name, mesh, TOP] if *mesh == self.mesh => self.node(name),
            [.., mesh, TOP] if *mesh == self.mesh => Subject::Nobody,
            [nibbles @ .., "ip6", "arpa"] => {
                let name = address(nibbles).and_then(|address| self.addresses.get(&address));
                name.map_or(Subject::Outside, |name| Subject::Address(name))
            }
            _ => Subject::Outside,
        }
    }

    /// The node with a name: of several the one that can be reached, for a name may pass to another node.
    fn node(&self, name: &str) -> Subject<'_> {
        let claims = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        let mut reachable = claims.iter().filter(|claim| claim.reachable);
        match (claims, reachable.next(), reachable.next()) {
            ([], ..) => Subject::Nobody,
            ([one], ..) | (_, Some(one), None) => Subject::Node(one),
            _ => Subject::Ambiguous,
        }
    }

    /// The records that answer a question, none where the name has no such type. `None` when a name can't be written, which no checked
    /// name is.
    fn records(&self, subject: &Subject<'_>, question: &Query) -> Option<Vec<Record>> {
        let kind = question.query_type();
        let asks = |of| kind == of || kind == RecordType::ANY;
        let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
        let mut records = Vec::new();
        match subject {
            Subject::Zone => {
                if asks(RecordType::SOA) {
                    records.push(self.soa()?);
                }
                if asks(RecordType::NS) {
                    records.push(record(RData::NS(NS(self.domain(&self.server)?))));
                }
            }
            Subject::Node(node) => {
                if asks(RecordType::AAAA) {
                    records.push(record(RData::AAAA(AAAA(Ipv6Addr::from(node.address.0)))));
                }
                if asks(RecordType::TXT) {
                    records.push(record(RData::TXT(TXT::new(vec![node.spiffe_id.to_string()]))));
                }
            }
            Subject::Address(name) if asks(RecordType::PTR) => {
                records.push(record(RData::PTR(PTR(self.domain(name)?))));
            }
            _ => {}
        }
        Some(records)
    }

    /// The zone's own record, which also says how long "no such name" may be kept (RFC 2308).
    fn soa(&self) -> Option<Record> {
        let origin = domain(&[&self.mesh, TOP])?;
        let server = self.domain(&self.server)?;
        let mailbox = domain(&["hostmaster", &self.mesh, TOP])?;
        // No secondary server ever compares the serial number.
        let soa = SOA::new(server, mailbox, 1, REFRESH, RETRY, EXPIRE, NEGATIVE_TTL);
        Some(Record::from_rdata(origin, NEGATIVE_TTL, RData::SOA(soa)))
    }

    /// The name of a node as a domain.
    fn domain(&self, name: &str) -> Option<DomainName> {
        domain(&[name, &self.mesh, TOP])
    }
}

fn domain(labels: &[&str]) -> Option<DomainName> {
    let mut name = DomainName::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The address of a name under `ip6.arpa`, RFC 3596 §2.5.
fn address(nibbles: &[&str]) -> Option<MeshAddress> {
    let mut octets = [0; 16];
    if nibbles.len() != octets.len() * 2 {
        return None;
    }
    for (octet, pair) in octets.iter_mut().rev().zip(nibbles.as_chunks::<2>().0) {
        let [low, high] = pair.map(|nibble| (nibble.len() == 1).then(|| u8::from_str_radix(nibble, 16).ok()));
        *octet = high?? << 4 | low??;
    }
    Some(MeshAddress(octets))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str, last: u8, reachable: bool) -> Name {
        let (mesh, name) = ("lab".parse().unwrap(), text.parse().unwrap());
        let spiffe_id = SpiffeId::node(&mesh, &name);
        Name { name, address: MeshAddress([last; 16]), node: NodeId([last; 32]), spiffe_id, reachable }
    }

    fn zone(names: Vec<Name>) -> Zone {
        Zone::new(&"lab".parse().unwrap(), &"alice".parse().unwrap(), names)
    }

    /// A query with these labels, for AAAA.
    fn query(labels: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in labels {
            bytes.push(label.len() as u8);
            bytes.extend(*label);
        }
        bytes.extend([0, 0, 28, 0, 1]);
        bytes
    }

    fn ask(zone: &Zone, labels: &[&[u8]]) -> Message {
        Message::from_vec(&zone.answer(&query(labels)).unwrap()).unwrap()
    }

    #[test]
    fn an_answer_is_as_rfc_1035_has_it() {
        let answer = zone(vec![name("bob", 0xfd, true)]).answer(&query(&[b"bob", b"lab", b"mesh"])).unwrap();
        // Id, a response with authority, one question and one answer; the question; a pointer to its name, AAAA, IN, 30 s.
        let mut wanted = vec![0xab, 0xcd, 0x85, 0, 0, 1, 0, 1, 0, 0, 0, 0];
        wanted.extend(b"\x03bob\x03lab\x04mesh\x00\x00\x1c\x00\x01");
        wanted.extend(b"\xc0\x0c\x00\x1c\x00\x01\x00\x00\x00\x1e\x00\x10");
        wanted.extend([0xfd; 16]);
        assert_eq!(answer, wanted);
    }

    #[test]
    fn of_several_claims_the_reachable_one_counts() {
        let bob: &[&[u8]] = &[b"bob", b"lab", b"mesh"];
        let claims = |reachable: &[bool]| {
            let names = reachable.iter().zip(1..).map(|(reachable, last)| name("bob", last, *reachable));
            ask(&zone(names.collect()), bob)
        };
        for (reachable, address) in [
            (&[false][..], Some(1)),
            (&[false, true], Some(2)),
            (&[true, true], None),
            (&[false, false], None),
        ] {
            let answer = claims(reachable);
            let data: Vec<_> = answer.answers.iter().map(|record| record.data.clone()).collect();
            let wanted = address.map(|last| RData::AAAA(AAAA(Ipv6Addr::from([last; 16]))));
            assert_eq!(data, wanted.into_iter().collect::<Vec<_>>());
            let failed = answer.metadata.response_code == ResponseCode::ServFail;
            assert_eq!(failed, address.is_none(), "{reachable:?}");
        }
    }

    #[test]
    fn names_that_are_no_text_are_nobodys() {
        let zone = zone(vec![name("bob", 1, true)]);
        assert_eq!(ask(&zone, &[b"b\xffb", b"lab", b"mesh"]).metadata.response_code, ResponseCode::Refused);
        assert_eq!(ask(&zone, &[b"b.b", b"lab", b"mesh"]).metadata.response_code, ResponseCode::NXDomain);
        // A label with a dot in it is not two labels.
        assert_eq!(ask(&zone, &[b"bob.lab", b"mesh"]).metadata.response_code, ResponseCode::Refused);
    }

    #[test]
    fn addresses_are_read_backwards() {
        let text: Vec<String> = (0..32).map(|n| format!("{:x}", n % 16)).collect();
        let nibbles: Vec<&str> = text.iter().map(String::as_str).collect();
        let address_of = address(&nibbles).unwrap();
        assert_eq!((address_of.0[0], address_of.0[15]), (0xfe, 0x10));
        assert_eq!(address(&nibbles[1..]), None);
        let mut long = nibbles.clone();
        long[3] = "0f";
        assert_eq!(address(&long), None);
        long[3] = "g";
        assert_eq!(address(&long), None);
        long[3] = "+";
        assert_eq!(address(&long), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_in_kind_or_not_at_all(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..300),
            header: bool,
        ) {
            if header && bytes.len() >= 12 {
                bytes[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
            }
            if let Some(answer) = zone(vec![name("bob", 1, true)]).answer(&bytes) {
                prop_assert_eq!(&answer[..2], &bytes[..2]);
                prop_assert!(answer[2] & 0x80 != 0 && bytes[2] & 0x80 == 0 && answer.len() <= 512);
            }
        }
    }
}
