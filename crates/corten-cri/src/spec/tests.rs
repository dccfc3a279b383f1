//! Plans as text. After a wanted change: `CORTEN_BLESS=1 cargo test -p corten-cri spec`.

use super::facts::*;

pub(super) fn host() -> Host {
    Host {
        kernel: (6, 12),
        machine: "x86_64",
        unified: true,
        swap_accounting: true,
        hugetlb: true,
        // All 41 but CAP_SYS_RESOURCE.
        bounding: 0x1ff_feff_ffff,
        lowest_oom_score: Some(0),
        apparmor: None,
        selinux: None,
    }
}

pub(super) fn handler() -> Handler {
    Handler {
        pod_annotations: vec![],
        container_annotations: vec![],
        privileged_without_host_devices: false,
        device_ownership: false,
        recursive_read_only: true,
        oci_version: "1.2.0",
    }
}
