//! One answer, byte by byte as it comes, held against what was asked for.

/// Longest head that is put together from pieces.
const HEAD_MAX: usize = 16 << 10;

/// An answer of which some has come: status 200, and a body of as many bytes as `Content-Length` says and as are expected.
#[derive(Debug)]
pub(crate) struct Answer {
    body_bytes: usize,
    /// The head, as long as it has not come whole.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, when the head is there.
    left: Option<usize>,
}

/// What is wrong with it.
pub(crate) type Wrong = String;

impl Answer {
    /// Of which nothing has come.
    pub(crate) fn new(body_bytes: usize) -> Self {
        Self {
            body_bytes,
            head: Vec::new(),
            left: None,
        }
    }

    /// Takes what has come and says whether the answer is whole now.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool, Wrong> {
        let (left, body) = match self.left {
            Some(left) => (left, bytes.len()),
            None => {
                let Some(body) = self.head(bytes)? else {
                    return Ok(false);
                };
                (self.body_bytes, body)
            }
        };
        if body > left {
            return Err(format!("{} bytes after the body", body - left));
        }
        self.left = Some(left - body);
        Ok(left == body)
    }

    /// Returns how many bytes of the body came with the head's last ones; `None`: the head is not whole.
    fn head(&mut self, bytes: &[u8]) -> Result<Option<usize>, Wrong> {
        if self.head.is_empty()
            && let Some(end) = head_end(bytes)
        {
            check(&bytes[..end], self.body_bytes)?;
            return Ok(Some(bytes.len() - end));
        }
        self.head.extend_from_slice(bytes);
        if let Some(end) = head_end(&self.head) {
            check(&self.head[..end], self.body_bytes)?;
            return Ok(Some(self.head.len() - end));
        }
        if self.head.len() > HEAD_MAX {
            return Err("a head without an end".to_owned());
        }
        Ok(None)
    }
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

fn check(head: &[u8], body_bytes: usize) -> Result<(), Wrong> {
    let wrong = || {
        format!(
            "instead of 200 and {body_bytes} bytes: {}",
            head.escape_ascii()
        )
    };
    let text = str::from_utf8(head).map_err(|_| wrong())?;
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let mut lengths = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())
    });
    let right = status.starts_with("HTTP/1.1 200 ")
        && lengths.next() == Some(Some(body_bytes))
        && lengths.next().is_none();
    if right { Ok(()) } else { Err(wrong()) }
}
