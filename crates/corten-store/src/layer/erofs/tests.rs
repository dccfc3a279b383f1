//! The image as the kernel sees it.
