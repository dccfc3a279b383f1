//! Walls that a test can take down, to see that it would notice.
//!
//! `weakened!("name")` is the literal `false` unless the feature `weaken` is on, so that neither names nor
//! the variable are in a build that anybody runs. With the feature it asks `CORTEN_WEAKEN`, a list of names.
//! The feature is nobody's default; the hostile suite of `corten-runtime` builds an executable with it.

/// Is the wall `name` down?
#[cfg(feature = "weaken")]
pub fn down(name: &str) -> bool {
    std::env::var("CORTEN_WEAKEN").is_ok_and(|walls| walls.split(',').any(|wall| wall == name))
}

/// Is the wall of this name down? See [`weaken`](crate::weaken).
#[cfg(feature = "weaken")]
#[macro_export]
macro_rules! weakened {
    ($name:literal) => {
        $crate::weaken::down($name)
    };
}

/// Is the wall of this name down? Never, in this build.
#[cfg(not(feature = "weaken"))]
#[macro_export]
macro_rules! weakened {
    ($name:literal) => {
        false
    };
}
