//! Under a real containerd of our own: root, state and socket in a temporary folder.
