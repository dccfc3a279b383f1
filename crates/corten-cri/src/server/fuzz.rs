//! The entrance to what a caller may put around its message: path, `grpc-timeout` and `traceparent`, a line each.

use super::{call, named};

/// What is known of a path is the interface's, whatever it was.
pub(crate) fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines() {
        let (service, method) = named::known(line);
        assert!(!method.is_empty() && (method != "unknown" || service.is_empty()));
        if let Some(time) = call::timeout(line) {
            assert!(time <= std::time::Duration::from_secs(99_999_999 * 3600));
        }
        if let Some(parent) = call::TraceParent::parse(line) {
            assert!(parent.trace != [0; 16] && parent.span != [0; 8]);
        }
    }
}
