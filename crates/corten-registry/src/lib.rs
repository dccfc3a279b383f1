//! OCI Distribution, both ends: client, authentication, server
