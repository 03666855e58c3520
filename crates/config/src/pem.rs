//! The certificates of a PEM file, and nothing else of it: private keys that lie beside them must not become part of a plan.

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// The certificate blocks of `text`, in order. `None` when there is none, or one that is not whole.
pub(crate) fn certificates(text: &str) -> Option<String> {
    let mut found = String::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line != BEGIN {
            continue;
        }
        let mut body = String::new();
        loop {
            match lines.next()? {
                END => break,
                line if line.bytes().all(is_base64) => {
                    body.push_str(line);
                    body.push('\n');
                }
                _ => return None,
            }
        }
        if body.trim().is_empty() {
            return None;
        }
        found.push_str(&format!("{BEGIN}\n{body}{END}\n"));
    }
    (!found.is_empty()).then_some(found)
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_certificates_alone() {
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        let one = format!("{BEGIN}\nMIIB\nAA==\n{END}\n");
        let text = format!("A name\r\n{one}{key}{}", one.replace('\n', "\r\n"));
        assert_eq!(certificates(&text), Some(format!("{one}{one}")));
        for bad in [
            "",
            key,
            BEGIN,
            &format!("{BEGIN}\n{END}\n"),
            &format!("{BEGIN}\nMIIB\n"),
            &format!("{BEGIN}\nMI IB\n{END}\n"),
        ] {
            assert_eq!(certificates(bad), None, "{bad}");
        }
    }
}
