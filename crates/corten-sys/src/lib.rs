//! The kernel, safely: the only unsafe code of the project
