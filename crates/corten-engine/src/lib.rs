//! Containers, images and networks: the engine as a library
