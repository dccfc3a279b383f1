//! Tokens: what a URL's last part stands for, once and for a short while.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};

use super::error::Error;

/// Random bytes of a token: eight characters, 48 bits. At most a thousand wait at a time, each for a minute and for one attempt.
const RANDOM: usize = 6;

/// What was asked for, by token.
#[derive(Debug)]
pub(super) struct Tokens<T> {
    waiting: HashMap<String, (T, Instant)>,
    /// By age. Names a token that was used, too, until its time has come.
    oldest: VecDeque<(String, Instant)>,
    life: Duration,
    most: usize,
}

impl<T> Tokens<T> {
    pub fn new(life: Duration, most: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            oldest: VecDeque::new(),
            life,
            most,
        }
    }

    /// A new token, for what `ask` asks.
    pub fn put(&mut self, ask: T, now: Instant) -> Result<String, Error> {
        self.forget(now);
        if self.waiting.len() >= self.most {
            return Err(Error::TooMany { most: self.most });
        }
        let token = loop {
            let mut bytes = [0; RANDOM];
            let filled = SystemRandom::new().fill(&mut bytes);
            filled.map_err(|_| Error::Random)?;
            let token = URL_SAFE_NO_PAD.encode(bytes);
            if !self.waiting.contains_key(&token) {
                break token;
            }
        };
        let end = now + self.life;
        self.waiting.insert(token.clone(), (ask, end));
        self.oldest.push_back((token.clone(), end));
        Ok(token)
    }

    /// What the token stands for, if it is fresh. It is used up.
    pub fn take(&mut self, token: &str, now: Instant) -> Option<T> {
        let (ask, end) = self.waiting.remove(token)?;
        (now < end).then_some(ask)
    }

    fn forget(&mut self, now: Instant) {
        while let Some((token, _)) = self.oldest.pop_front_if(|(_, end)| *end <= now) {
            // A later token may have drawn the characters of one that was used.
            if self.waiting.get(&token).is_some_and(|(_, end)| *end <= now) {
                self.waiting.remove(&token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_token_is_good_once_and_for_a_minute() {
        let (mut tokens, start) = (Tokens::new(MINUTE, 1000), Instant::now());
        let one = tokens.put("one", start).unwrap();
        let two = tokens.put("two", start).unwrap();
        assert_eq!(one.len(), 8);
        assert_ne!(one, two);
        assert_eq!(tokens.take("unknown1", start), None);
        let late = start + MINUTE - Duration::from_millis(1);
        assert_eq!(tokens.take(&one, late), Some("one"));
        assert_eq!(tokens.take(&one, late), None);
        assert_eq!(tokens.take(&two, start + MINUTE), None);
    }

    #[test]
    fn only_so_many_wait_and_the_used_and_the_old_make_room() {
        let (mut tokens, start) = (Tokens::new(MINUTE, 3), Instant::now());
        let first = tokens.put(0, start).unwrap();
        tokens.put(1, start).unwrap();
        tokens.put(2, start + MINUTE / 2).unwrap();
        let full = tokens.put(3, start + MINUTE / 2);
        assert!(matches!(full, Err(Error::TooMany { most: 3 })));
        tokens.take(&first, start + MINUTE / 2).unwrap();
        tokens.put(3, start + MINUTE / 2).unwrap();
        // One has died of age.
        tokens.put(4, start + MINUTE).unwrap();
        assert!(tokens.put(5, start + MINUTE).is_err());
        tokens.put(6, start + MINUTE * 2).unwrap();
        assert_eq!((tokens.waiting.len(), tokens.oldest.len()), (1, 1));
    }
}
