//! Properties as text.

use oci_spec::runtime::LinuxResources;

use super::*;

const MAJORS: &str = "Character devices:
  1 mem
  4 /dev/vc/0
136 pts

Block devices:
  8 sd
136 notpts
";

fn lines_with(json: &str, change: impl Fn(&mut Setting<'_>)) -> String {
    let resources: LinuxResources = serde_json::from_str(json).unwrap();
    let facts = Facts::default();
    let mut setting = Setting {
        version: 252,
        v2: true,
        facts: &facts,
        majors: MAJORS,
        user: false,
    };
    change(&mut setting);
    match properties(&resources, &setting) {
        Ok(properties) => properties.iter().map(|p| format!("{p}\n")).collect(),
        Err(error) => format!("refused: {error}\n"),
    }
}

fn lines(json: &str) -> String {
    lines_with(json, |_| {})
}

const FULL: &str = r#"{
    "memory":{"limit":1000,"swap":1500,"reservation":500},
    "cpu":{"shares":1024,"quota":50000,"period":200000,"burst":1000,"cpus":"0-1,9","mems":"0"},
    "pids":{"limit":0},
    "blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}]},
    "hugepageLimits":[{"pageSize":"2MB","limit":9}]}"#;

#[test]
fn a_full_list_for_v2() {
    assert_eq!(
        lines(FULL),
        "MemoryMax = uint64 1000
MemoryLow = uint64 500
MemorySwapMax = uint64 500
CPUWeight = uint64 100
CPUQuotaPeriodUSec = uint64 200000
CPUQuotaPerSecUSec = uint64 250000
AllowedCPUs = @ay [byte 3, byte 2]
AllowedMemoryNodes = @ay [byte 1]
TasksMax = uint64 1
IOWeight = uint64 4950
"
    );
}

#[test]
fn a_full_list_for_v1() {
    assert_eq!(
        lines_with(FULL, |s| s.v2 = false),
        "MemoryLimit = uint64 1000
CPUShares = uint64 1024
CPUQuotaPeriodUSec = uint64 200000
CPUQuotaPerSecUSec = uint64 250000
TasksMax = uint64 1
BlockIOWeight = uint64 500
"
    );
}

#[test]
fn no_limit_is_the_largest_number() {
    assert_eq!(
        lines(r#"{"memory":{"limit":-1},"cpu":{"quota":-1},"pids":{"limit":-1}}"#),
        "MemoryMax = uint64 18446744073709551615
MemorySwapMax = uint64 18446744073709551615
CPUQuotaPerSecUSec = uint64 18446744073709551615
TasksMax = uint64 18446744073709551615
"
    );
}

#[test]
fn an_old_systemd_gets_what_it_knows() {
    let old = lines_with(FULL, |s| s.version = 219);
    assert!(
        !old.contains("Allowed") && !old.contains("PeriodUSec"),
        "{old}"
    );
    assert!(old.contains("CPUQuotaPerSecUSec = uint64 250000"), "{old}");
    let idle = r#"{"cpu":{"idle":1}}"#;
    assert_eq!(lines(idle), "CPUWeight = uint64 0\n");
    assert_eq!(lines_with(idle, |s| s.version = 251), "");
}

#[test]
fn half_a_quota_keeps_the_other_half() {
    let facts = Facts {
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        ..Facts::default()
    };
    let resources: LinuxResources = serde_json::from_str(r#"{"cpu":{"period":25000}}"#).unwrap();
    let setting = Setting {
        version: 252,
        v2: true,
        facts: &facts,
        majors: "",
        user: false,
    };
    let properties = properties(&resources, &setting).unwrap();
    assert_eq!(
        properties[1].to_string(),
        "CPUQuotaPerSecUSec = uint64 2000000"
    );
}

#[test]
fn a_quota_is_rounded_up_to_what_systemd_keeps() {
    // 1/3 of a CPU.
    assert!(lines(r#"{"cpu":{"quota":33333}}"#).contains("uint64 340000"));
}

#[test]
fn unified_files_that_are_properties() {
    assert_eq!(
        lines(r#"{"unified":{"memory.high":"max"}}"#),
        "MemoryHigh = uint64 18446744073709551615\n"
    );
    assert_eq!(
        lines(r#"{"unified":{"cpu.max":"10000 20000"}}"#),
        "CPUQuotaPeriodUSec = uint64 20000\nCPUQuotaPerSecUSec = uint64 500000\n"
    );
    assert_eq!(
        lines(r#"{"unified":{"cpuset.cpus":"1"}}"#),
        "AllowedCPUs = @ay [byte 2]\n"
    );
    // For the files alone.
    assert_eq!(lines(r#"{"unified":{"memory.oom.group":"1"}}"#), "");
    // The caller's own word wins.
    let both = lines(r#"{"pids":{"limit":5},"unified":{"pids.max":"7"}}"#);
    assert_eq!(both, "TasksMax = uint64 7\n");
    assert!(lines(r#"{"unified":{"pids.max":"x"}}"#).starts_with("refused: bad value x"));
}

#[test]
fn devices_are_an_allow_list() {
    assert_eq!(
        lines(
            r#"{"devices":[{"allow":false,"access":"rwm"},
            {"allow":true,"type":"c","access":"m"},
            {"allow":true,"type":"b","access":"m"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"rw"},
            {"allow":true,"type":"c","major":1,"minor":3,"access":"m"},
            {"allow":true,"type":"c","major":136,"access":"rwm"},
            {"allow":true,"type":"c","major":77,"access":"rwm"},
            {"allow":true,"type":"b","major":8,"minor":1,"access":"rw"},
            {"allow":false,"type":"b","major":8,"minor":1,"access":"w"}]}"#
        ),
        r#"DevicePolicy = "strict"
DeviceAllow = @a(ss) [("char-*", "m"), ("block-*", "m"), ("/dev/char/1:3", "rwm"), ("char-pts", "rwm"), ("/dev/block/8:1", "r")]
"#
    );
    assert_eq!(
        lines(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#),
        "DevicePolicy = \"auto\"\nDeviceAllow = @a(ss) []\n"
    );
    let user = lines_with(r#"{"devices":[{"allow":true,"access":"rwm"}]}"#, |s| {
        s.user = true
    });
    assert_eq!(user, "");
}

#[test]
fn a_mask_is_bounded() {
    for bad in ["x", "3-1", "8192", "0-99999999999", "1-2-3", "-1"] {
        let json = serde_json::json!({"cpu": {"cpus": bad}}).to_string();
        assert!(lines(&json).starts_with("refused: bad value"), "{bad}");
    }
}
