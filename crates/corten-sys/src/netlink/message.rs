//! Building requests and reading replies: the header, the attributes. Reading never panics and
//! never reads past what it was given, whatever the bytes.

/// `struct nlmsghdr`: length u32, type u16, flags u16, sequence u32, port u32.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;
/// `NLA_TYPE_MASK`: without the nested and byte order flags.
const TYPE_MASK: u16 = 0x3fff;

/// Netlink aligns everything to four bytes.
pub fn align(n: usize) -> usize {
    n.next_multiple_of(4)
}

/// A request under construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `flags` besides `NLM_F_REQUEST`, which is always set.
    pub fn new(kind: u16, flags: u16) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | super::flag::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        Self { bytes }
    }

    pub fn kind(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[4], self.bytes[5]])
    }

    pub fn flags(&self) -> u16 {
        u16::from_ne_bytes([self.bytes[6], self.bytes[7]])
    }

    /// Sets more flags.
    pub fn with_flags(mut self, flags: u16) -> Self {
        let all = (self.flags() | flags).to_ne_bytes();
        self.bytes[6..8].copy_from_slice(&all);
        self
    }

    /// The family's own header after netlink's (`ifinfomsg`, `nfgenmsg`, …), padded.
    pub fn header(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// An attribute of raw bytes. Payloads are bounded by the format: 65,531 bytes; a longer
    /// one is a bug of the caller's, who builds them from checked names and numbers.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        debug_assert!(payload.len() <= usize::from(u16::MAX) - ATTRIBUTE);
        let length = (ATTRIBUTE + payload.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    pub fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.attr(kind, &[value])
    }

    pub fn attr_u16(&mut self, kind: u16, value: u16) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    pub fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// nf_tables has its numbers in network order.
    pub fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A string with its terminating zero.
    pub fn attr_str(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// A nested attribute, filled by `fill`.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_raw(kind | NESTED, fill)
    }

    /// As [`Message::nest`] but without the nested flag: what a peer expects that is older than
    /// the flag (`IFLA_AF_SPEC` of bridges), and where other headers come first
    /// (`VETH_INFO_PEER`).
    pub fn nest_raw(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.attr(kind, &[]);
        fill(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Raw bytes inside a nest, padded.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// The message with its length and this sequence number, as it is sent.
    pub fn finish(&mut self, sequence: u32) -> &[u8] {
        let length = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }

    /// What follows netlink's header.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[HEADER..]
    }
}

/// One message from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    /// What follows netlink's header.
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// The family's own header of `size` bytes, and the attributes after it. `None` if the
    /// message is shorter than that.
    pub fn split(&self, size: usize) -> Option<(&'a [u8], Attributes<'a>)> {
        let header = self.payload.get(..size)?;
        let rest = self.payload.get(align(size)..).unwrap_or(&[]);
        Some((header, Attributes::new(rest)))
    }
}

/// The messages in a datagram, up to the first that is cut or malformed.
pub(super) fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.get(..HEADER)?;
        let length = u32_at(header, 0)? as usize;
        let payload = bytes.get(HEADER..length)?;
        let reply = Reply {
            kind: u16_at(header, 4)?,
            flags: u16_at(header, 6)?,
            sequence: u32_at(header, 8)?,
            payload,
        };
        bytes = bytes.get(align(length)..).unwrap_or(&[]);
        Some(reply)
    })
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at + 2)?;
    Some(u16::from_ne_bytes(bytes.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Iterates over attributes as `(type, payload)`, the type without its flags. Ends at the first
/// malformed one.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The first attribute of this type.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        let mut all = *self;
        all.find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    pub fn nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes::new)
    }

    pub fn u32(&self, kind: u16) -> Option<u32> {
        u32_at(self.get(kind)?, 0)
    }

    pub fn be32(&self, kind: u16) -> Option<u32> {
        self.u32(kind).map(u32::from_be)
    }

    /// A string, without its terminating zero; what is no UTF-8 is replaced.
    pub fn string(&self, kind: u16) -> Option<String> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.bytes, 0)?);
        let kind = u16_at(self.bytes, 2)? & TYPE_MASK;
        let payload = self.bytes.get(ATTRIBUTE..length)?;
        self.bytes = self.bytes.get(align(length)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_reads_back() {
        let mut m = Message::new(16, super::super::flag::ACK).header(&[1, 2, 3]);
        m.attr_u32(1, 7)
            .attr_str(2, "ab")
            .nest(3, |m| {
                m.attr_u8(1, 9);
            })
            .attr_be32(4, 1);
        let bytes = m.finish(5).to_vec();
        let reply = replies(&bytes).next().unwrap();
        assert_eq!((reply.kind, reply.flags, reply.sequence), (16, 5, 5));
        let (header, attributes) = reply.split(3).unwrap();
        assert_eq!(header, [1, 2, 3]);
        assert_eq!(attributes.u32(1), Some(7));
        assert_eq!(attributes.string(2).unwrap(), "ab");
        assert_eq!(attributes.nested(3).unwrap().get(1), Some(&[9][..]));
        assert_eq!(attributes.be32(4), Some(1));
        assert_eq!(attributes.get(5), None);
    }

    #[test]
    fn a_cut_message_ends_the_reading() {
        let mut m = Message::new(16, 0).header(&[0; 16]);
        m.attr_str(1, "x");
        let bytes = m.finish(1).to_vec();
        for cut in 0..bytes.len() {
            assert_eq!(replies(&bytes[..cut]).count(), 0, "{cut}");
        }
        // A length below the header's own would loop for ever if it were believed.
        let mut short = bytes.clone();
        short[0] = 3;
        assert_eq!(replies(&short).count(), 0);
        assert_eq!(Attributes::new(&[1, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
    }

    /// Reads as deep as the bytes pretend to go.
    fn walk(attributes: Attributes<'_>, depth: usize) -> usize {
        attributes
            .map(|(_, payload)| match depth {
                0 => 1,
                _ => 1 + walk(Attributes::new(payload), depth - 1),
            })
            .sum()
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        // xorshift: reproducible, and no dependency for one loop.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let length = (random() % 96) as usize;
            let mut bytes: Vec<u8> = (0..length).map(|_| random() as u8).collect();
            // Half of them with a plausible length, so that more is read.
            if length >= HEADER && random() % 2 == 0 {
                bytes[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
                for at in (HEADER..length.saturating_sub(4)).step_by(4) {
                    bytes[at..at + 2].copy_from_slice(&((random() % 24) as u16).to_ne_bytes());
                }
            }
            for reply in replies(&bytes) {
                if let Some((_, attributes)) = reply.split((random() % 24) as usize) {
                    walk(attributes, 4);
                }
            }
        }
    }
}
