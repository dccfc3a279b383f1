//! Limits that change while a container is there: UpdateContainerResources, UpdatePodSandboxResources.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use tonic::Status;

use super::Shared;
use super::book::ContainerEntry;
use crate::blocking;
use crate::proto::{
    LinuxContainerResources, UpdateContainerResourcesRequest, UpdatePodSandboxResourcesRequest,
};
use crate::spec;

impl Shared {
    pub(super) async fn limit(
        self: &Arc<Self>,
        request: UpdateContainerResourcesRequest,
    ) -> Result<(), Status> {
        let entry = self.book.container(&request.container_id)?;
        let Some(asked) = request.linux else {
            return Err(Status::invalid_argument("linux: there is none"));
        };
        let shared = self.clone();
        let task = tokio::spawn(async move {
            let _busy = entry.busy.lock().await;
            let (worker, of) = (shared.clone(), entry.clone());
            blocking::status(move || worker.limit_locked(&of, &asked)).await
        });
        task.await
            .map_err(|_| Status::internal("the change of limits ended without a result"))?
    }

    fn limit_locked(
        &self,
        entry: &ContainerEntry,
        asked: &LinuxContainerResources,
    ) -> Result<(), Status> {
        let failed = |e: corten_engine::Error| crate::status::of(&e);
        let now = entry.now();
        let planned = self.resources(asked)?;
        if now.is_running() {
            let resources = serde_json::from_value(planned.clone());
            let resources =
                resources.map_err(|e| Status::invalid_argument(format!("linux: {e}")))?;
            self.engine
                .limit_in_pod(&now.container, &resources)
                .map_err(failed)?;
        }
        // What is on record is what a start would have, and what the status shows.
        let mut spec = self.engine.pod_spec(&now.container).map_err(failed)?;
        merge(&mut spec["linux"]["resources"], &planned);
        self.engine
            .replace_pod_spec(&now.container, &spec)
            .map_err(failed)?;
        let (mut document, mut container) = ((*now.document).clone(), (*now.container).clone());
        let linux = document.config.linux.get_or_insert_default();
        kept(linux.resources.get_or_insert_default(), asked);
        container.record.document = document.text();
        self.engine.save_pod_container(&container).map_err(failed)?;
        entry.set_document(container, document);
        Ok(())
    }

    fn resources(&self, asked: &LinuxContainerResources) -> Result<Value, Status> {
        let mut warnings = Vec::new();
        let planned = spec::resources(asked, &self.host, &mut warnings);
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        planned.map_err(super::plan::refused)
    }

    /// The pod's group is kubelet's, which has set it already: what is asked is looked at, and nothing of ours depends on it.
    pub(super) fn limit_pod(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<(), Status> {
        let pod = self.book.pod(&request.pod_sandbox_id)?;
        if !pod.is_ready() {
            return Err(Status::failed_precondition(format!(
                "pod sandbox {} is not ready",
                pod.id
            )));
        }
        for asked in [&request.overhead, &request.resources]
            .into_iter()
            .flatten()
        {
            self.resources(asked)?;
        }
        Ok(())
    }

    /// More than kubelet needs, for people.
    pub(super) fn container_info(&self, entry: &ContainerEntry) -> BTreeMap<String, String> {
        let now = entry.now();
        let pid = now.container.record.started.map_or(0, |s| s.pid);
        let info = json!({
            "sandboxID": entry.pod.as_str(),
            "pid": if now.is_running() { pid } else { 0 },
            "runtimeSpec": self.engine.pod_spec(&now.container).ok(),
            "snapshotKey": entry.id.as_str(),
            "snapshotter": "overlay",
            "privileged": privileged(&now.document.config),
            "removing": false,
        });
        BTreeMap::from([("info".into(), info.to_string())])
    }
}

fn privileged(config: &crate::proto::ContainerConfig) -> bool {
    let linux = config.linux.as_ref();
    let security = linux.and_then(|l| l.security_context.as_ref());
    security.is_some_and(|s| s.privileged)
}

/// What an update does not name stays.
fn merge(old: &mut Value, new: &Value) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (old, new) if !new.is_null() => *old = new.clone(),
        _ => {}
    }
}

/// The same in the interface's words: zero and nothing mean unchanged.
fn kept(old: &mut LinuxContainerResources, new: &LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut old.cpu_period, new.cpu_period);
    number(&mut old.cpu_quota, new.cpu_quota);
    number(&mut old.cpu_shares, new.cpu_shares);
    number(&mut old.memory_limit_in_bytes, new.memory_limit_in_bytes);
    number(&mut old.oom_score_adj, new.oom_score_adj);
    number(
        &mut old.memory_swap_limit_in_bytes,
        new.memory_swap_limit_in_bytes,
    );
    for (old, new) in [
        (&mut old.cpuset_cpus, &new.cpuset_cpus),
        (&mut old.cpuset_mems, &new.cpuset_mems),
    ] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !new.hugepage_limits.is_empty() {
        old.hugepage_limits.clone_from(&new.hugepage_limits);
    }
    old.unified.extend(new.unified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let mut old = json!({"cpu": {"shares": 2, "quota": 5}, "memory": {"limit": 1}});
        merge(
            &mut old,
            &json!({"cpu": {"quota": 7}, "pids": {"limit": 3}, "memory": null}),
        );
        let wanted =
            json!({"cpu": {"shares": 2, "quota": 7}, "memory": {"limit": 1}, "pids": {"limit": 3}});
        assert_eq!(old, wanted);
        let mut message = LinuxContainerResources {
            cpu_shares: 2,
            cpu_quota: 5,
            ..Default::default()
        };
        let new = LinuxContainerResources {
            cpu_quota: 7,
            ..Default::default()
        };
        kept(&mut message, &new);
        assert_eq!((message.cpu_shares, message.cpu_quota), (2, 7));
    }
}
