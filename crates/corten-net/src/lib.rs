//! Links, addresses, nftables, IPAM; the CNI caller and the bundled CNI plugins
