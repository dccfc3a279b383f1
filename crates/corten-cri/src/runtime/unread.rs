//! Rows that this version cannot read: listed as what little is known of them, served by nobody, and left alone. A newer version that
//! comes back finds them as it wrote them.

use corten_spec::{ContainerId, chain};
use tonic::Status;

use super::filter;
use crate::proto::{
    Container, ContainerFilter, ContainerMetadata, ContainerState, ContainerStatus, ImageSpec,
    PodSandbox, PodSandboxFilter, PodSandboxMetadata, PodSandboxState, PodSandboxStatus,
};

/// As the status of such a container has it.
const REASON: &str = "RecordUnreadable";

/// One of them.
#[derive(Clone, Debug)]
pub struct Unread {
    pub id: ContainerId,
    /// `None`: it is a pod's own.
    pub pod: Option<ContainerId>,
    /// Of several names that are joined by `_`.
    pub name: String,
    pub created_at: i64,
    pub why: String,
}

impl From<corten_engine::pod::Unread> for Unread {
    fn from(row: corten_engine::pod::Unread) -> Self {
        Self {
            why: chain(&row.why),
            id: row.id,
            pod: row.pod,
            name: row.name,
            created_at: row.created_at,
        }
    }
}

impl Unread {
    fn kind(&self) -> &'static str {
        match self.pod {
            None => "pod sandbox",
            Some(_) => "container",
        }
    }

    /// Names it in the log.
    pub fn warn(&self) {
        let (kind, id) = (self.kind(), self.id.as_str());
        tracing::error!(id, error = self.why, "{kind} left alone");
    }

    pub fn refused(&self) -> Status {
        let text = format!("{} {} is left alone: {}", self.kind(), self.id, self.why);
        Status::failed_precondition(text)
    }

    pub fn pod(&self, wanted: &PodSandboxFilter) -> Option<PodSandbox> {
        let fits = self.pod.is_none()
            && filter::id(self.id.as_str(), &wanted.id)
            && wanted.label_selector.is_empty()
            && (wanted.state.as_ref())
                .is_none_or(|s| s.state() == PodSandboxState::SandboxNotready);
        fits.then(|| PodSandbox {
            id: self.id.to_string(),
            metadata: Some(self.pod_metadata()),
            state: PodSandboxState::SandboxNotready.into(),
            created_at: self.created_at,
            ..PodSandbox::default()
        })
    }

    pub fn pod_status(&self) -> PodSandboxStatus {
        PodSandboxStatus {
            id: self.id.to_string(),
            metadata: Some(self.pod_metadata()),
            state: PodSandboxState::SandboxNotready.into(),
            created_at: self.created_at,
            ..PodSandboxStatus::default()
        }
    }

    /// NAME_NAMESPACE_UID_ATTEMPT, of which no word has the line in it.
    fn pod_metadata(&self) -> PodSandboxMetadata {
        let mut words = self.name.split('_').map(str::to_owned);
        let mut word = || words.next().unwrap_or_default();
        PodSandboxMetadata {
            name: word(),
            namespace: word(),
            uid: word(),
            attempt: word().parse().unwrap_or_default(),
        }
    }

    pub fn container(&self, wanted: &ContainerFilter) -> Option<Container> {
        let pod = self.pod.as_ref()?;
        let fits = filter::id(self.id.as_str(), &wanted.id)
            && filter::id(pod.as_str(), &wanted.pod_sandbox_id)
            && wanted.label_selector.is_empty()
            && (wanted.state.as_ref())
                .is_none_or(|s| s.state() == ContainerState::ContainerUnknown);
        fits.then(|| Container {
            id: self.id.to_string(),
            pod_sandbox_id: pod.to_string(),
            metadata: Some(self.container_metadata()),
            image: Some(ImageSpec::default()),
            state: ContainerState::ContainerUnknown.into(),
            created_at: self.created_at,
            ..Container::default()
        })
    }

    pub fn container_status(&self) -> ContainerStatus {
        ContainerStatus {
            id: self.id.to_string(),
            metadata: Some(self.container_metadata()),
            image: Some(ImageSpec::default()),
            state: ContainerState::ContainerUnknown.into(),
            created_at: self.created_at,
            reason: REASON.into(),
            message: self.why.clone(),
            ..ContainerStatus::default()
        }
    }

    /// NAME_POD_NAMESPACE_UID_ATTEMPT.
    fn container_metadata(&self) -> ContainerMetadata {
        let attempt = self.name.rsplit('_').next().and_then(|a| a.parse().ok());
        let name = self.name.split('_').next().unwrap_or_default();
        ContainerMetadata {
            name: name.into(),
            attempt: attempt.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, pod: Option<&str>) -> Unread {
        Unread {
            id: "a1".parse().unwrap(),
            pod: pod.map(|p| p.parse().unwrap()),
            name: name.into(),
            created_at: 7,
            why: "version 9".into(),
        }
    }

    #[test]
    fn what_is_known_of_it_is_told() {
        let pod = row("web_ns_u-1_2", None);
        let listed = pod.pod(&PodSandboxFilter::default()).unwrap();
        let metadata = listed.metadata.clone().unwrap();
        assert_eq!(
            (listed.state(), metadata.attempt),
            (PodSandboxState::SandboxNotready, 2)
        );
        assert_eq!(
            (&*metadata.name, &*metadata.namespace, &*metadata.uid),
            ("web", "ns", "u-1")
        );
        assert!(pod.container(&ContainerFilter::default()).is_none());
        let container = row("c_web_ns_u-1_3", Some("b2"));
        let listed = container.container(&ContainerFilter::default()).unwrap();
        assert_eq!(listed.state(), ContainerState::ContainerUnknown);
        assert_eq!(listed.metadata.unwrap().attempt, 3);
        assert!(container.pod(&PodSandboxFilter::default()).is_none());
        assert!(container.refused().message().contains("version 9"));
    }

    #[test]
    fn labels_are_not_known_so_no_selector_finds_it() {
        let wanted = PodSandboxFilter {
            label_selector: [("a".into(), "b".into())].into(),
            ..PodSandboxFilter::default()
        };
        assert!(row("web_ns_u_0", None).pod(&wanted).is_none());
    }
}
