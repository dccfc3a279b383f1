//! Memory that only grows, in pieces: nothing moves when it grows, so there is never a second copy of it.

/// Values by number.
pub(super) struct Numbered<T> {
    pieces: Vec<Vec<T>>,
}

const PIECE: usize = 4096;

impl<T> Numbered<T> {
    pub fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    pub fn len(&self) -> usize {
        match self.pieces.split_last() {
            Some((last, full)) => full.len() * PIECE + last.len(),
            None => 0,
        }
    }

    pub fn push(&mut self, value: T) -> u32 {
        let number = self.len();
        if number.is_multiple_of(PIECE) {
            self.pieces.push(Vec::with_capacity(PIECE));
        }
        if let Some(last) = self.pieces.last_mut() {
            last.push(value);
        }
        // The bounds of an index (`Limits::index`) end far below.
        u32::try_from(number).unwrap_or(u32::MAX)
    }

    pub fn get(&self, number: u32) -> &T {
        let n = number as usize;
        &self.pieces[n / PIECE][n % PIECE]
    }

    pub fn get_mut(&mut self, number: u32) -> &mut T {
        let n = number as usize;
        &mut self.pieces[n / PIECE][n % PIECE]
    }

    pub fn numbers(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.pieces.len() * PIECE * size_of::<T>()
    }
}

/// Where a text lies: the piece and the offset in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Text(u32);

impl Text {
    pub fn to_place(self) -> u64 {
        self.0.into()
    }

    /// Of a number that `to_place` gave.
    pub fn from_place(place: u64) -> Self {
        Self(u32::try_from(place).unwrap_or_default())
    }
}

/// Names and targets, of at most 4095 bytes each.
pub(super) struct Texts {
    pieces: Vec<Vec<u8>>,
}

const TEXTS: usize = 1 << 16;

impl Texts {
    pub fn new() -> Self {
        Self { pieces: Vec::new() }
    }

    pub fn push(&mut self, text: &[u8]) -> Text {
        let room = self.pieces.last().map_or(0, |p| TEXTS - p.len());
        if room < text.len() || self.pieces.is_empty() {
            self.pieces.push(Vec::with_capacity(TEXTS));
        }
        let piece = self.pieces.len() - 1;
        let last = &mut self.pieces[piece];
        let offset = last.len();
        last.extend_from_slice(text);
        // The bounds of an index end far below 4 GiB; an offset is less than a piece.
        Text(u32::try_from(piece << 16 | (offset & (TEXTS - 1))).unwrap_or(u32::MAX))
    }

    pub fn get(&self, at: Text, length: usize) -> &[u8] {
        let (piece, offset) = (at.0 as usize >> 16, at.0 as usize & (TEXTS - 1));
        match length {
            0 => &[],
            _ => &self.pieces[piece][offset..offset + length],
        }
    }

    pub fn bytes(&self) -> usize {
        self.pieces.len() * TEXTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_pushed_is_found() {
        let mut numbers = Numbered::new();
        let mut texts = Texts::new();
        let at: Vec<(u32, Text, Vec<u8>)> = (0..20_000usize)
            .map(|i| {
                let text = format!("{i}").repeat(i % 40).into_bytes();
                (numbers.push(i), texts.push(&text), text)
            })
            .collect();
        for (i, (number, text, expected)) in at.iter().enumerate() {
            assert_eq!(*numbers.get(*number), i);
            assert_eq!(texts.get(*text, expected.len()), expected);
        }
        assert_eq!(numbers.len(), 20_000);
        *numbers.get_mut(19_999) = 7;
        assert_eq!(*numbers.get(19_999), 7);
    }

    #[test]
    fn a_text_that_ends_a_piece_leaves_room_for_none() {
        let mut texts = Texts::new();
        let full: Vec<Text> = (0..32).map(|_| texts.push(&[b'x'; 2048])).collect();
        let next = texts.push(b"y");
        assert_eq!(texts.get(full[31], 2048), [b'x'; 2048]);
        assert_eq!(texts.get(next, 1), b"y");
    }
}
