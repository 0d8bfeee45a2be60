//! Numbers and foreign text as people read them.

/// Text from elsewhere with control characters escaped, so that it cannot drive the terminal. Line ends and tabs stay.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        let bidi = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        if (c.is_control() && c != '\n' && c != '\t') || bidi {
            clean.extend(c.escape_default());
        } else {
            clean.push(c);
        }
    }
    clean
}

/// Digits of a NodeId shown to people: 48 bits, unique in any mesh of the sizes that Meshara is for.
const SHORT_ID: usize = 12;

/// The beginning of a NodeId.
pub(crate) fn short(node_id: &str) -> String {
    node_id.chars().take(SHORT_ID).collect()
}

/// A node by its name, or by its NodeId while the name is unknown.
pub(crate) fn node(name: &str, node_id: &str) -> String {
    if name.is_empty() { short(node_id) } else { printable(name) }
}

/// Milliseconds, or a dash.
pub(crate) fn ms(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

/// Bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = count as f64 / 1024.0;
    let mut name = "KiB";
    for unit in UNITS {
        name = unit;
        if value < 1024.0 {
            break;
        }
        if unit != "PiB" {
            value /= 1024.0;
        }
    }
    format!("{value:.1} {name}")
}

/// Seconds as the two largest units.
pub(crate) fn seconds(total: u64) -> String {
    let (days, hours, minutes, seconds) = (total / 86_400, total / 3600 % 24, total / 60 % 60, total % 60);
    if days > 0 {
        format!("{days}d {hours}h")
    } else if hours > 0 {
        format!("{hours}h {minutes}m")
    } else if minutes > 0 {
        format!("{minutes}m {seconds}s")
    } else {
        format!("{seconds}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{202e}c\r\nd\te\u{7f}ü"), "a\\u{1b}[2Jb\\u{202e}c\\r\nd\te\\u{7f}ü");
    }

    #[test]
    fn sizes_and_times_are_short() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(1_572_864), "1.5 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
        assert_eq!(seconds(59), "59s");
        assert_eq!(seconds(3661), "1h 1m");
        assert_eq!(seconds(90_000), "1d 1h");
        assert_eq!(ms(None), "-");
        assert_eq!(node("", "0123456789abcdef"), "0123456789ab");
    }
}
