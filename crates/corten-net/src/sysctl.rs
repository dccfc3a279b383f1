//! (in the next commit)
