//! Pods and the containers in them: names, order, and what goes before what.

use corten_spec::Kind;
use corten_store::{Error, PodRow};

use crate::fixture::Sandbox;

fn pod(id: &str, name: &str, created_at: i64) -> PodRow {
    PodRow {
        id: id.parse().unwrap(),
        pod: None,
        name: name.into(),
        created_at,
        record: "{}".into(),
    }
}

fn container(id: &str, pod: &str, name: &str, created_at: i64) -> PodRow {
    PodRow {
        pod: Some(pod.parse().unwrap()),
        ..self::pod(id, name, created_at)
    }
}

#[test]
fn pods_come_first_and_each_in_the_order_of_their_making() {
    let sandbox = Sandbox::new();
    let pods = sandbox.store.pods();
    for row in [pod("p2", "b", 2), pod("p1", "a", 1)] {
        pods.insert(&row).unwrap();
    }
    for row in [
        container("c9", "p2", "x", 3),
        container("c1", "p1", "y", 4),
        container("c0", "p1", "z", 3),
    ] {
        pods.insert(&row).unwrap();
    }
    let ids: Vec<_> = pods.list().unwrap();
    let ids: Vec<_> = ids.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(ids, ["p1", "p2", "c0", "c9", "c1"]);
}

#[test]
fn a_name_is_taken_among_pods_or_among_containers() {
    let sandbox = Sandbox::new();
    let pods = sandbox.store.pods();
    pods.insert(&pod("p1", "a", 1)).unwrap();
    match pods.insert(&pod("p2", "a", 2)) {
        Err(Error::AlreadyExists { by, name, .. }) => {
            assert_eq!((by.as_str(), name.as_str()), ("p1", "a"));
        }
        other => panic!("{other:?}"),
    }
    // A container is no pod.
    pods.insert(&container("c1", "p1", "a", 2)).unwrap();
    let taken = pods.insert(&container("c2", "p1", "a", 3)).unwrap_err();
    assert_eq!(taken.kind(), Kind::AlreadyExists);
    let found = |container| pods.named("a", container).unwrap().unwrap().id;
    assert_eq!((found(false).as_str(), found(true).as_str()), ("p1", "c1"));
    assert_eq!(pods.named("b", false).unwrap(), None);
}

#[test]
fn records_are_replaced_and_rows_of_nobody_are_not() {
    let sandbox = Sandbox::new();
    let pods = sandbox.store.pods();
    let (mut one, mut other) = (pod("p1", "a", 1), container("c1", "p1", "a", 2));
    for row in [&mut one, &mut other] {
        pods.insert(row).unwrap();
        row.record = format!("{{\"of\": {:?}}}", row.id.as_str());
        pods.update(row).unwrap();
    }
    assert_eq!(pods.list().unwrap(), [one, other]);
    for absent in [pod("p2", "b", 1), container("c2", "p1", "b", 1)] {
        let error = pods.update(&absent).unwrap_err();
        assert_eq!(error.kind(), Kind::NotFound, "{error}");
        pods.delete(&absent).unwrap();
    }
    assert_eq!(pods.list().unwrap().len(), 2);
}

#[test]
fn a_pod_stays_for_as_long_as_it_has_containers() {
    let sandbox = Sandbox::new();
    let pods = sandbox.store.pods();
    let (row, inside) = (pod("p1", "a", 1), container("c1", "p1", "a", 2));
    pods.insert(&row).unwrap();
    pods.insert(&inside).unwrap();
    pods.delete(&row).unwrap_err();
    assert_eq!(pods.list().unwrap().len(), 2);
    pods.delete(&inside).unwrap();
    pods.delete(&row).unwrap();
    assert_eq!(pods.list().unwrap(), []);
    let error = pods.insert(&inside).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound, "{error}");
}
