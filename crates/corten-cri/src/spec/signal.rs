//! The interface's numbering of signals, which is its own.

use corten_engine::container;

use crate::proto::Signal;

const SIGTERM: i32 = 15;

/// The kernel's number; `None` for the default of whoever stops.
pub fn number(signal: Signal) -> Option<i32> {
    let known = match signal {
        Signal::RuntimeDefault => return None,
        // Other names of one signal (signal(7)).
        Signal::Sigcld => "CHLD",
        Signal::Sigpoll => "IO",
        Signal::Sigiot => "ABRT",
        other => {
            let name = other.as_str_name();
            let name = name.replace("PLUS", "+").replace("MINUS", "-");
            return container::signal(&name);
        }
    };
    container::signal(known)
}

/// The interface's word for the kernel's number.
pub fn word(number: i32) -> Signal {
    let all = (1..=65).filter_map(|n| Signal::try_from(n).ok());
    all.filter(|s| self::number(*s) == Some(number))
        .min_by_key(|s| matches!(s, Signal::Sigcld | Signal::Sigiot | Signal::Sigpoll))
        .unwrap_or(Signal::RuntimeDefault)
}

/// What asks a container to end: the request's, the image's, or SIGTERM.
pub fn stop(asked: Signal, image: Option<&str>) -> i32 {
    let image = || image.and_then(container::signal);
    number(asked).or_else(image).unwrap_or(SIGTERM)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_has_a_number_and_comes_back() {
        for at in 1..=65 {
            let signal = Signal::try_from(at).unwrap();
            let number = number(signal).unwrap_or_else(|| panic!("{signal:?}"));
            let alias = matches!(signal, Signal::Sigcld | Signal::Sigiot | Signal::Sigpoll);
            assert_eq!(word(number) == signal, !alias, "{signal:?} is {number}");
        }
        assert_eq!(number(Signal::RuntimeDefault), None);
        assert_eq!(word(0), Signal::RuntimeDefault);
    }

    #[test]
    fn numbers_are_the_kernels() {
        let of = |s| number(s).unwrap();
        assert_eq!((of(Signal::Sigterm), of(Signal::Sigkill)), (15, 9));
        assert_eq!((of(Signal::Sigrtmin), of(Signal::Sigrtmax)), (34, 64));
        assert_eq!(of(Signal::Sigrtminplus3), 37);
        assert_eq!(of(Signal::Sigrtmaxminus14), 50);
    }

    #[test]
    fn the_request_wins_over_the_image() {
        assert_eq!(stop(Signal::Sigquit, Some("SIGUSR1")), 3);
        assert_eq!(stop(Signal::RuntimeDefault, Some("SIGUSR1")), 10);
        assert_eq!(stop(Signal::RuntimeDefault, Some("nonsense")), 15);
        assert_eq!(stop(Signal::RuntimeDefault, None), 15);
    }
}
