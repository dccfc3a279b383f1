//! Beside other people's firewalls.
