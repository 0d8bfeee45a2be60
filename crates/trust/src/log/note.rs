//! Signed notes (C2SP signed-note): a text, an empty line, and lines of signatures that any tool of that family reads.

use std::fmt;

use data_encoding::BASE64;

use super::hash::Hash;

/// Longest note: 16 signatures of ML-DSA-65 (4.5 KB each in base64), which every verifier must accept, and as much again.
pub const NOTE_MAX: usize = 128 * 1024;

/// Most signature lines: a log's two and those of more witnesses than anyone asks for.
pub const SIGNATURES_MAX: usize = 64;

/// Longest key name: an origin with the longest mesh name and a NodeId has 140 characters.
pub const KEY_NAME_MAX: usize = 255;

/// What a signature line begins with: an em dash and a space.
const LINE_START: &str = "\u{2014} ";

/// Why bytes aren't a signed note.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// Longer than [`NOTE_MAX`].
    #[error("a signed note of {0} bytes where at most {NOTE_MAX} are allowed")]
    TooLarge(usize),
    /// Not UTF-8, or a control character.
    #[error("a signed note is UTF-8 without control characters")]
    Characters,
    /// No empty line between text and signatures, or no line end at the end of either.
    #[error("a signed note is a text, an empty line and signature lines")]
    Structure,
    /// A line among the signatures isn't one.
    #[error("signature line {0} is malformed")]
    Signature(usize),
    /// More than [`SIGNATURES_MAX`] signature lines.
    #[error("a signed note with more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
}

/// A name that isn't one a key may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key name has 1 to {KEY_NAME_MAX} characters, none of them a space, a control character or '+'")]
pub struct BadKeyName;

/// Name of a signing key: a log's origin, or a witness.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyName(String);

impl KeyName {
    /// Checks a name.
    pub fn new(name: &str) -> Result<Self, BadKeyName> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
        let fits = (1..=KEY_NAME_MAX).contains(&name.len()) && !name.contains(bad);
        if fits { Ok(Self(name.to_owned())) } else { Err(BadKeyName) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyName({})", self.0)
    }
}

/// First four bytes of a hash over name, kind and key: it says which key to try, and proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 4]);

impl KeyId {
    /// The id of the key `public` of `kind` under `name`.
    pub fn of(name: &KeyName, kind: &[u8], public: &[u8]) -> Self {
        let Hash([a, b, c, d, ..]) = Hash::of(&[name.0.as_bytes(), b"\n", kind, public].concat());
        Self([a, b, c, d])
    }
}

/// A signature line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteSignature {
    /// Whose it is.
    pub name: KeyName,
    /// Which of its keys.
    pub key: KeyId,
    /// What the key's kind makes of it.
    pub bytes: Vec<u8>,
}

/// A text with signatures. Nothing about it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    /// The signatures, in their order.
    pub signatures: Vec<NoteSignature>,
}

impl Note {
    /// An unsigned note; the text ends with a line end.
    pub(super) fn unsigned(text: String) -> Self {
        Self { text, signatures: Vec::new() }
    }

    /// The signed text, its last line end included.
    pub fn text(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub(super) fn text_mut(&mut self) -> &mut String {
        &mut self.text
    }

    /// Reads a note that has at least one signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, NoteError> {
        if bytes.len() > NOTE_MAX {
            return Err(NoteError::TooLarge(bytes.len()));
        }
        let whole = std::str::from_utf8(bytes).map_err(|_| NoteError::Characters)?;
        if whole.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
            return Err(NoteError::Characters);
        }
        let (text, lines) = whole.rsplit_once("\n\n").ok_or(NoteError::Structure)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Structure)?;
        let mut signatures = Vec::new();
        for (number, line) in lines.split('\n').enumerate() {
            if number == SIGNATURES_MAX {
                return Err(NoteError::TooManySignatures);
            }
            signatures.push(parse_line(line).ok_or(NoteError::Signature(number + 1))?);
        }
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// The note as it is stored and served.
    pub fn encode(&self) -> String {
        let mut out = self.text.clone();
        out.push('\n');
        for signature in &self.signatures {
            let bytes = [signature.key.0.as_slice(), &signature.bytes].concat();
            out.push_str(&format!("{LINE_START}{} {}\n", signature.name, BASE64.encode(&bytes)));
        }
        out
    }

    /// Signatures by this key.
    pub fn by<'a>(&'a self, name: &'a KeyName, key: KeyId) -> impl Iterator<Item = &'a [u8]> {
        let mine = move |signature: &&NoteSignature| signature.key == key && signature.name == *name;
        self.signatures.iter().filter(mine).map(|signature| signature.bytes.as_slice())
    }
}

fn parse_line(line: &str) -> Option<NoteSignature> {
    let (name, base64) = line.strip_prefix(LINE_START)?.split_once(' ')?;
    // The decoder also takes several padded texts one after the other; only one spelling is written.
    let bytes = BASE64.decode(base64.as_bytes()).ok().filter(|bytes| BASE64.encode(bytes) == base64)?;
    let (key, bytes) = bytes.split_first_chunk::<4>()?;
    let name = KeyName::new(name).ok()?;
    (!bytes.is_empty()).then(|| NoteSignature { name, key: KeyId(*key), bytes: bytes.to_vec() })
}

#[cfg(test)]
mod tests {
    use meshara_identity::verify_routing;
    use proptest::prelude::*;

    use super::*;

    /// The example of Go's `sumdb/note`, with the key that signed it: text and key that nobody here made.
    const PETER: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
    const PETER_KEY: &str = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";

    #[test]
    fn a_note_of_another_tool_verifies() {
        let note = Note::parse(PETER.as_bytes()).unwrap();
        assert_eq!(note.encode(), PETER);
        let name = KeyName::new("PeterNeumann").unwrap();
        let vkey = BASE64.decode(PETER_KEY.as_bytes()).unwrap();
        let key = KeyId::of(&name, &vkey[..1], &vkey[1..]);
        assert_eq!(key, KeyId([0xc7, 0x4f, 0x20, 0xa3]));
        let signature = note.by(&name, key).next().unwrap().try_into().unwrap();
        assert_eq!(verify_routing(vkey[1..].try_into().unwrap(), note.text().as_bytes(), signature), Ok(()));
    }

    #[test]
    fn malformed_notes_are_told_apart() {
        let line = "\u{2014} n AAAAAAA=\n";
        assert!(Note::parse(format!("t\n\n{line}").as_bytes()).is_ok());
        for (note, error) in [
            (String::new(), NoteError::Structure),
            ("t\n".into(), NoteError::Structure),
            ("t\n\n".into(), NoteError::Structure),
            (format!("t\n{line}"), NoteError::Structure),
            (format!("t\n\n{}", line.trim_end()), NoteError::Structure),
            (format!("t\r\n\n{line}"), NoteError::Characters),
            (format!("t\n\n{line}- n AAAAAAA=\n"), NoteError::Signature(2)),
            ("t\n\n\u{2014} n AAAAAAA\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} n AAAAAA==\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} n AAAAAAB=\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} n AAAAAAA=AAAA\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} n AAAAAAA=AA==\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} a+b AAAAAAA=\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014}  AAAAAAA=\n".into(), NoteError::Signature(1)),
            ("t\n\n\u{2014} a b AAAAAAA=\n".into(), NoteError::Signature(1)),
            (format!("t\n\n{}", line.repeat(SIGNATURES_MAX + 1)), NoteError::TooManySignatures),
            ("t".repeat(NOTE_MAX + 1), NoteError::TooLarge(NOTE_MAX + 1)),
        ] {
            assert_eq!(Note::parse(note.as_bytes()), Err(error), "{note:?}");
        }
        assert_eq!(Note::parse(b"\xff\n\n"), Err(NoteError::Characters));
        assert!(Note::parse(format!("t\n\n{}", line.repeat(SIGNATURES_MAX)).as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn what_parses_is_canonical(text in "[a-z\n\u{2014} ]{0,40}", tail in "(\u{2014} [a-z.]{1,3} (AAAAAAA=|AAAAAAAA)\n){0,3}") {
            let whole = format!("{text}\n\n{tail}");
            if let Ok(note) = Note::parse(whole.as_bytes()) {
                prop_assert_eq!(note.encode(), whole);
            }
        }
    }
}
