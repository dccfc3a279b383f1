//! The messages, generated from `proto/` at build time.

macro_rules! generated {
    ($name:ident, $package:literal) => {
        #[allow(clippy::all, missing_docs)]
        pub mod $name {
            include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
        }
    };
}

generated!(bootstrap, "corten.bootstrap");
generated!(corten, "corten.shim.v1");
generated!(events, "corten.events");
generated!(metrics, "corten.metrics");
generated!(sandbox, "corten.sandbox");
generated!(task, "corten.task");
generated!(ttrpc, "corten.ttrpc");
