//! The resize stream: JSON objects, one after the other, cut anywhere.

use serde::Deserialize;
use tokio::sync::watch;

use super::backend::Size;
use super::channel::Input;

/// No size is longer, in bytes.
const LONGEST: usize = 1 << 10;

#[derive(Deserialize)]
struct Document {
    #[serde(alias = "width", default)]
    #[serde(rename = "Width")]
    width: u16,
    #[serde(alias = "height", default)]
    #[serde(rename = "Height")]
    height: u16,
}

/// Collects bytes until they are sizes.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    bytes: Vec<u8>,
}

/// This is no resize stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbage;

impl Sizes {
    /// The last size in what has come, if there is a new one.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Size>, Garbage> {
        let mut last = None;
        for piece in bytes.chunks(LONGEST) {
            self.bytes.extend_from_slice(piece);
            last = self.take()?.or(last);
            if self.bytes.len() > LONGEST {
                return Err(Garbage);
            }
        }
        Ok(last)
    }

    /// A size has no braces within: one is whole at its first closing one, and only then looked at. (What a parser says of half
    /// a number depends on where it was cut.)
    fn take(&mut self) -> Result<Option<Size>, Garbage> {
        let mut last = None;
        loop {
            let blank = self.bytes.iter().take_while(|b| b.is_ascii_whitespace());
            self.bytes.drain(..blank.count());
            if self.bytes.first().is_some_and(|b| *b != b'{') {
                return Err(Garbage);
            }
            let Some(end) = self.bytes.iter().position(|b| *b == b'}') else {
                return Ok(last);
            };
            let document = serde_json::from_slice(&self.bytes[..=end]);
            let Document { width, height } = document.map_err(|_| Garbage)?;
            last = Some(Size { width, height });
            self.bytes.drain(..=end);
        }
    }
}

/// Reads the stream to its end, or until it makes no sense.
pub(super) async fn follow(mut input: Input, sizes: watch::Sender<Option<Size>>) {
    let mut decoder = Sizes::default();
    while let Some(bytes) = input.next().await {
        match decoder.feed(&bytes) {
            Ok(Some(size)) => drop(sizes.send_replace(Some(size))),
            Ok(None) => {}
            Err(Garbage) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn size(width: u16, height: u16) -> Size {
        Size { width, height }
    }

    #[test]
    fn sizes_are_read() {
        let mut sizes = Sizes::default();
        let first = sizes.feed(br#"{"Width":80,"Height":24}"#);
        assert_eq!(first, Ok(Some(size(80, 24))));
        assert_eq!(sizes.feed(b"\n{\"Width\":1"), Ok(None));
        assert_eq!(
            sizes.feed(br#"00,"Height":50}{"Width":3,"Height":4} "#),
            Ok(Some(size(3, 4)))
        );
        assert_eq!(sizes.feed(b"nonsense"), Err(Garbage));
        let mut sizes = Sizes::default();
        assert_eq!(sizes.feed(&[b'['; 5000]), Err(Garbage));
        let negative = Sizes::default().feed(br#"{"Width":-1,"Height":24}"#);
        assert_eq!(negative, Err(Garbage));
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_last(all in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..9), cut in 1usize..40) {
            let text: String = all
                .iter()
                .map(|(w, h)| format!("{{\"Width\":{w},\"Height\":{h}}}\n"))
                .collect();
            let (mut sizes, mut last) = (Sizes::default(), None);
            for piece in text.as_bytes().chunks(cut) {
                last = sizes.feed(piece).unwrap().or(last);
            }
            let (w, h) = all[all.len() - 1];
            prop_assert_eq!(last, Some(size(w, h)));
        }
    }
}
