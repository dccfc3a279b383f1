//! containerd's Task API for one container: stdio, log, exit status
