//! Sandboxes and fixtures for Corten's tests
