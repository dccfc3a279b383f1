//! Keys that are trusted, and messages that they signed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest;

use super::hash::Numbers;
use super::packet::{self, Input, Packet, packets};
use super::signature::{
    BINARY, BINDS_PRIMARY, BINDS_SUBKEY, CERTIFIES, DIRECT, REVOKES_KEY, REVOKES_SUBKEY,
    REVOKES_USER, Signature,
};

/// Clocks differ by no more.
const SKEW: u64 = 24 * 3600;
/// A primary key may leave signing to its subkeys.
const NOT_MEANT: &str = "is not meant for signing";
/// A compressed message in a compressed message is none that a tool made.
const DEPTH: u32 = 2;

/// The keys of one file.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<Key>,
    /// Seconds since 1970, as far as tests say so.
    now: u64,
}

/// A primary key or subkey.
#[derive(Debug)]
struct Key {
    id: [u8; 8],
    fingerprint: String,
    numbers: Option<Numbers>,
    created: u64,
    /// Seconds since 1970.
    expires_at: Option<u64>,
    /// Why it may not sign.
    unusable: Option<&'static str>,
}

/// A key packet, and the packets that belong to it.
struct Certified<'a> {
    body: &'a [u8],
    /// With what each is on: nothing (the key itself), or the user id's hashed form.
    signatures: Vec<(Vec<u8>, Signature)>,
}

impl KeyRing {
    /// A file of public keys, armored or not.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let packets = packets(&packet::dearmored(bytes)?)?;
        let mut ring = Self {
            keys: Vec::new(),
            now: now(),
        };
        let mut rest = packets.as_slice();
        while !rest.is_empty() {
            rest = ring.certificate(rest)?;
        }
        match ring.keys.is_empty() {
            true => Err("it holds no public key".into()),
            false => Ok(ring),
        }
    }

    /// The same ring, as it will be judged after that time.
    #[cfg(test)]
    pub fn at(mut self, later: Duration) -> Self {
        self.now += later.as_secs();
        self
    }

    /// One primary key with its user ids and subkeys; returns what follows.
    fn certificate<'p>(&mut self, packets: &'p [Packet]) -> Result<&'p [Packet], String> {
        let [primary, rest @ ..] = packets else {
            return Ok(packets);
        };
        if primary.tag != packet::PUBLIC_KEY {
            return Err(format!(
                "it holds a packet (number {}) that belongs to no public key",
                primary.tag
            ));
        }
        let end = rest.iter().position(|p| p.tag == packet::PUBLIC_KEY);
        let (own, next) = rest.split_at(end.unwrap_or(rest.len()));
        let mut keys = vec![Certified {
            body: &primary.body,
            signatures: Vec::new(),
        }];
        let mut subject = Some(Vec::new());
        for p in own {
            match p.tag {
                packet::SUBKEY => {
                    keys.push(Certified {
                        body: &p.body,
                        signatures: Vec::new(),
                    });
                    subject = Some(Vec::new());
                }
                packet::USER_ID => subject = Some(user(0xb4, &p.body)),
                packet::USER_ATTRIBUTE => subject = Some(user(0xd1, &p.body)),
                packet::SIGNATURE => {
                    let signature = Signature::parse(&p.body)?;
                    if let (Some(s), Some(on), Some(key)) = (signature, &subject, keys.last_mut()) {
                        key.signatures.push((on.clone(), s));
                    }
                }
                packet::TRUST | packet::MARKER => {}
                tag => {
                    return Err(format!(
                        "it holds a packet (number {tag}) that belongs to no public key"
                    ));
                }
            }
        }
        let [primary, subkeys @ ..] = keys.as_slice() else {
            return Ok(next);
        };
        let Some(key) = self.primary(primary)? else {
            return Ok(next);
        };
        for subkey in subkeys {
            let subkey = self.subkey(primary.body, &key, subkey)?;
            self.keys.extend(subkey);
        }
        self.keys.push(key);
        Ok(next)
    }

    fn primary(&self, certified: &Certified<'_>) -> Result<Option<Key>, String> {
        let Some(mut key) = Key::parse(certified.body)? else {
            return Ok(None);
        };
        let on = framed(certified.body);
        let data = |user: &[u8]| [on.as_slice(), user].concat();
        let all = || certified.signatures.iter();
        if all().any(|(_, s)| s.kind == REVOKES_KEY && revokes(&key, s, &on)) {
            key.unusable = Some("has been revoked");
            return Ok(Some(key));
        }
        // A user id that was taken back certifies nothing any more.
        let taken_back = |user: &Vec<u8>| {
            all().any(|(u, s)| u == user && s.kind == REVOKES_USER && revokes(&key, s, &data(u)))
        };
        let certifies = |(user, s): &&(Vec<u8>, Signature)| match s.kind {
            DIRECT => by(&key, s, &on),
            kind => {
                let fine = CERTIFIES.contains(&kind) && !user.is_empty();
                fine && by(&key, s, &data(user)) && !taken_back(user)
            }
        };
        let valid = all().filter(certifies).map(|(_, s)| s);
        let best = valid.max_by_key(|s| s.created);
        match best {
            Some(signature) => {
                key.expires_at = end_of(&key, signature);
                if signature.may_sign() == Some(false) {
                    key.unusable = Some(NOT_MEANT);
                }
            }
            None => key.unusable = Some("has no valid signature of its own on its user id"),
        }
        Ok(Some(key))
    }

    /// Bound by the primary key, and (as it signs) the primary key bound by it (§5.2.1, type 0x19): otherwise
    /// somebody could adopt another's key.
    fn subkey(
        &self,
        primary_body: &[u8],
        primary: &Key,
        certified: &Certified<'_>,
    ) -> Result<Option<Key>, String> {
        let Some(mut key) = Key::parse(certified.body)? else {
            return Ok(None);
        };
        let on = [framed(primary_body), framed(certified.body)].concat();
        let all = || certified.signatures.iter().map(|(_, s)| s);
        if all().any(|s| s.kind == REVOKES_SUBKEY && revokes(primary, s, &on)) {
            key.unusable = Some("has been revoked");
            return Ok(Some(key));
        }
        let bound = all().filter(|s| s.kind == BINDS_SUBKEY && by(primary, s, &on));
        let Some(signature) = bound.max_by_key(|s| s.created) else {
            return Ok(None);
        };
        let back = signature.embedded.as_deref();
        let back = back.is_some_and(|b| b.kind == BINDS_PRIMARY && by(&key, b, &on));
        // A subkey lives no longer than its primary key.
        let ends = [end_of(&key, signature), primary.expires_at];
        key.expires_at = ends.into_iter().flatten().min();
        let signs = signature.may_sign() == Some(true) && back;
        key.unusable = match (primary.unusable, signs) {
            (Some(NOT_MEANT) | None, true) => None,
            (Some(NOT_MEANT) | None, false) => Some(NOT_MEANT),
            (why, _) => why,
        };
        Ok(Some(key))
    }

    fn expired(&self, key: &Key) -> bool {
        key.expires_at.is_some_and(|e| e <= self.now)
    }

    /// The content of a signed message, and the fingerprint of the key that signed it.
    pub fn open(&self, message: &[u8]) -> Result<(Vec<u8>, String), String> {
        let (content, signatures) = contents(&packet::dearmored(message)?, 0)?;
        let mut why = "it is by none of the keys".to_owned();
        for signature in &signatures {
            let by_id =
                |k: &&Key| signature.issuers.is_empty() || signature.issuers.contains(&k.id);
            for key in self.keys.iter().filter(by_id) {
                match self.check(key, signature, &content) {
                    Ok(()) => return Ok((content, key.fingerprint.clone())),
                    Err(e) => why = e,
                }
            }
        }
        Err(why)
    }

    fn check(&self, key: &Key, signature: &Signature, content: &[u8]) -> Result<(), String> {
        let refuse = |why: &str| Err(format!("key {} {why}", key.fingerprint));
        if signature.kind != BINARY {
            return Err("its signature is not one on bytes as they are".into());
        }
        if let Some(why) = key.unusable {
            return refuse(why);
        }
        let Some(numbers) = &key.numbers else {
            return refuse("is of a kind that is not known here");
        };
        if self.expired(key) {
            return refuse("has expired");
        }
        if signature.created > self.now + SKEW || signature.created + SKEW < key.created {
            return Err("its time is wrong".into());
        }
        if signature
            .expires
            .is_some_and(|e| signature.created.saturating_add(e) <= self.now)
        {
            return Err("it has expired".into());
        }
        match signature.verify(numbers, content)? {
            true => Ok(()),
            false => Err("it was changed since it was signed".into()),
        }
    }
}

impl Key {
    /// §5.5.2; `Ok(None)`: of another version.
    fn parse(body: &[u8]) -> Result<Option<Self>, String> {
        let mut input = Input(body);
        if input.byte() != Some(4) {
            return Ok(None);
        }
        let (created, algorithm) = (input.number(4), input.byte());
        let (Some(created), Some(algorithm)) = (created, algorithm) else {
            return Err("a key in it is damaged".into());
        };
        // §12.2: over the packet as it would be framed. SHA-1 is what names it, and proves nothing.
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &framed(body));
        let fingerprint = hash.as_ref();
        let id = fingerprint.last_chunk::<8>().copied().unwrap_or_default();
        Ok(Some(Self {
            id,
            fingerprint: fingerprint.iter().map(|b| format!("{b:02X}")).collect(),
            numbers: Numbers::parse(algorithm, &mut input)?,
            created: created.into(),
            expires_at: None,
            unusable: None,
        }))
    }
}

fn end_of(key: &Key, signature: &Signature) -> Option<u64> {
    let after = signature.key_expires?;
    Some(key.created.saturating_add(after))
}

fn by(key: &Key, signature: &Signature, data: &[u8]) -> bool {
    let numbers = key.numbers.as_ref();
    numbers.is_some_and(|n| signature.verify(n, data) == Ok(true))
}

/// A revocation that cannot be judged, for its hash is old, counts: it must not be the reason that a key is trusted.
fn revokes(key: &Key, signature: &Signature, data: &[u8]) -> bool {
    let numbers = key.numbers.as_ref();
    numbers.is_some_and(|n| signature.verify(n, data) != Ok(false))
}

/// A key as signatures hash it (§5.2.4).
fn framed(body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
    [&[0x99], length.to_be_bytes().as_slice(), body].concat()
}

fn user(mark: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[mark], length.to_be_bytes().as_slice(), body].concat()
}

/// One literal and its signatures, compressed or not (§11.3).
fn contents(bytes: &[u8], depth: u32) -> Result<(Vec<u8>, Vec<Signature>), String> {
    let found = packets(bytes)?;
    if let [only] = found.as_slice()
        && only.tag == packet::COMPRESSED
        && depth < DEPTH
    {
        return contents(&packet::decompress(&only.body)?, depth + 1);
    }
    let mut content = None;
    let mut signatures = Vec::new();
    for p in &found {
        match p.tag {
            packet::LITERAL if content.is_none() => {
                content = Some(
                    packet::literal(&p.body)
                        .ok_or("its content is damaged")?
                        .to_vec(),
                );
            }
            packet::SIGNATURE => signatures.extend(Signature::parse(&p.body)?),
            packet::ONE_PASS | packet::MARKER => {}
            tag => {
                return Err(format!(
                    "it is no signed message (it has a packet of number {tag})"
                ));
            }
        }
    }
    match (content, signatures.is_empty()) {
        (Some(content), false) => Ok((content, signatures)),
        (None, _) => Err("it signs nothing that is in it".into()),
        (_, true) => Err("it is not signed".into()),
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs()
}
