//! Kubelet's part: pods and containers by a client of the runtime service, on a network of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use corten_cri::proto::runtime_service_client::RuntimeServiceClient;
use corten_cri::proto::*;
use corten_testkit::{Image, Result, Sandbox, need, wait};
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;

use super::daemon::{Daemon, block, spec};
use super::{SOON, sandbox};

/// A daemon with a network for pods and one image.
pub struct Node {
    pub sandbox: Sandbox,
    pub daemon: Daemon,
    pub image: String,
}

impl Node {
    pub fn start() -> Result<Self> {
        Self::with("", &[])
    }

    /// With more of serve.toml, and more plugins after the first.
    pub fn with(settings: &str, plugins: &[serde_json::Value]) -> Result<Self> {
        Self::within(sandbox()?, settings, plugins)
    }

    /// With its folders below this one.
    pub fn below(parent: &Path, settings: &str) -> Result<Self> {
        let sandbox = Sandbox::below(parent, super::sandbox()?.binary())?;
        Self::within(sandbox, settings, &[])
    }

    /// In a sandbox that the test has made ready.
    pub fn within(sandbox: Sandbox, settings: &str, plugins: &[serde_json::Value]) -> Result<Self> {
        let cni = sandbox.files().join("cni");
        fs::create_dir_all(&cni).expect("a folder");
        let number = u32::from_str_radix(&sandbox.bridge()[2..6], 16).unwrap_or(0);
        let (b, c) = (number / 256 % 256, number % 256);
        let first = json!({
            "type": "ptp",
            "ipMasq": need::is_nat(),
            "ipam": {
                "type": "host-local",
                "dataDir": sandbox.run_folder().join("cni-ipam"),
                "ranges": [[{"subnet": format!("100.{b}.{c}.0/24")}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        });
        let mut all = vec![first];
        all.extend(plugins.iter().cloned());
        let list = json!({"cniVersion": "1.1.0", "name": "test-pods", "plugins": all});
        fs::write(cni.join("10-test.conflist"), list.to_string()).expect("a file");
        let text = format!("{settings}\n[cni]\nconf-dir = {:?}\nbin-dirs = []\n", cni);
        fs::create_dir_all(sandbox.etc()).expect("a folder");
        fs::write(sandbox.etc().join("serve.toml"), text).expect("a file");
        let image = sandbox.loaded(Image::Busybox)?;
        let daemon = Daemon::start(&sandbox, &[]);
        Ok(Self {
            sandbox,
            daemon,
            image,
        })
    }

    pub async fn client(&self) -> Client {
        Client {
            runtime: self.daemon.runtime().await,
            image: self.image.clone(),
            parent: self.sandbox.cgroup(),
            logs: self.sandbox.files().join("logs"),
        }
    }

    /// Kills the daemon and starts another.
    pub fn again(&mut self) {
        self.daemon.child.kill().expect("kill");
        self.daemon.child.wait().expect("wait");
        self.daemon = Daemon::start(&self.sandbox, &[]);
    }

    /// The addresses that pods have, as the plugin keeps them.
    pub fn addresses(&self) -> Vec<String> {
        let folder = self.sandbox.run_folder().join("cni-ipam/test-pods");
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.map(|e| e.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("100.")).collect()
    }

    /// Removes every pod; then the host is as it was.
    pub fn finish(self) {
        block(async { self.client().await.remove_all().await });
        assert!(self.daemon.stop().success());
        self.sandbox.finish();
    }
}

#[derive(Clone)]
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
    pub image: String,
    pub parent: String,
    pub logs: PathBuf,
}

/// Of a pod whose containers have process ids of their own.
pub fn apart() -> NamespaceOption {
    NamespaceOption {
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    }
}

/// The context of a container that [`Client::container`] has made.
pub fn security(config: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    let linux = config.linux.as_mut().expect("linux");
    linux.security_context.as_mut().expect("a context")
}

/// The namespaces of a pod that [`Client::pod`] has made.
pub fn options(config: &mut PodSandboxConfig) -> &mut NamespaceOption {
    let linux = config.linux.as_mut().expect("linux");
    let context = linux.security_context.as_mut().expect("a context");
    context.namespace_options.as_mut().expect("options")
}

impl Client {
    pub fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "test".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.logs.join(name).display().to_string(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: self.parent.clone(),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(apart()),
                    ..LinuxSandboxSecurityContext::default()
                }),
                ..LinuxPodSandboxConfig::default()
            }),
            ..PodSandboxConfig::default()
        }
    }

    pub fn container(&self, name: &str, script: &str) -> ContainerConfig {
        ContainerConfig {
            metadata: Some(ContainerMetadata {
                name: name.into(),
                attempt: 0,
            }),
            image: Some(spec(&self.image)),
            command: ["sh", "-c", script].map(String::from).to_vec(),
            log_path: format!("{name}.log"),
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: Some(apart()),
                    ..LinuxContainerSecurityContext::default()
                }),
                ..LinuxContainerConfig::default()
            }),
            ..ContainerConfig::default()
        }
    }

    pub async fn run(&mut self, config: &PodSandboxConfig) -> std::result::Result<String, Status> {
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
            runtime_handler: String::new(),
        };
        let answer = self.runtime.run_pod_sandbox(request).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    pub async fn create(
        &mut self,
        pod: &str,
        config: &ContainerConfig,
    ) -> std::result::Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.into(),
            config: Some(config.clone()),
            sandbox_config: None,
        };
        let answer = self.runtime.create_container(request).await?;
        Ok(answer.into_inner().container_id)
    }

    pub async fn start(&mut self, id: &str) -> std::result::Result<(), Status> {
        let request = StartContainerRequest {
            container_id: id.into(),
        };
        self.runtime.start_container(request).await.map(drop)
    }

    /// A container that is created and started.
    pub async fn go(&mut self, pod: &str, config: &ContainerConfig) -> String {
        let id = self.create(pod, config).await.expect("a container");
        self.start(&id).await.expect("a start");
        id
    }

    /// Runs a script in a container to its end.
    pub async fn exec(
        &mut self,
        id: &str,
        script: &str,
        timeout: i64,
    ) -> std::result::Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: id.into(),
            cmd: ["sh", "-c", script].map(String::from).to_vec(),
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// What a script in a container writes, which ends well.
    #[track_caller]
    pub fn says(&mut self, id: &str, script: &str) -> impl Future<Output = String> {
        let at = std::panic::Location::caller();
        async move {
            let done = self.exec(id, script, 20).await;
            let done = done.unwrap_or_else(|e| panic!("{at}: {script}: {e}"));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
            assert_eq!(done.exit_code, 0, "{at}: {script}: {}", text(&done.stderr));
            text(&done.stdout)
        }
    }

    pub async fn status(&mut self, id: &str) -> std::result::Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: false,
        };
        let answer = self.runtime.container_status(request).await?;
        Ok(answer.into_inner().status.unwrap_or_default())
    }

    pub async fn pod_status(&mut self, id: &str) -> std::result::Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: false,
        };
        let answer = self.runtime.pod_sandbox_status(request).await?;
        Ok(answer.into_inner().status.unwrap_or_default())
    }

    /// Waits for its end, and returns how it was.
    pub async fn ended(&mut self, id: &str) -> ContainerStatus {
        let since = std::time::Instant::now();
        loop {
            let status = self.status(id).await.expect("a status");
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(since.elapsed() < SOON, "{status:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn stop(&mut self, id: &str, timeout: i64) -> std::result::Result<(), Status> {
        let request = StopContainerRequest {
            container_id: id.into(),
            timeout,
        };
        self.runtime.stop_container(request).await.map(drop)
    }

    pub async fn remove(&mut self, id: &str) -> std::result::Result<(), Status> {
        let request = RemoveContainerRequest {
            container_id: id.into(),
        };
        self.runtime.remove_container(request).await.map(drop)
    }

    pub async fn stop_pod(&mut self, id: &str) -> std::result::Result<(), Status> {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime.stop_pod_sandbox(request).await.map(drop)
    }

    pub async fn remove_pod(&mut self, id: &str) -> std::result::Result<(), Status> {
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: id.into(),
        };
        self.runtime.remove_pod_sandbox(request).await.map(drop)
    }

    pub async fn pods(&mut self) -> Vec<PodSandbox> {
        let request = ListPodSandboxRequest { filter: None };
        let answer = self.runtime.list_pod_sandbox(request).await;
        answer.expect("a list").into_inner().items
    }

    pub async fn containers(&mut self) -> Vec<Container> {
        let request = ListContainersRequest { filter: None };
        let answer = self.runtime.list_containers(request).await;
        answer.expect("a list").into_inner().containers
    }

    /// A field of what the verbose status of a container says for people.
    pub async fn info(&mut self, id: &str) -> serde_json::Value {
        let request = ContainerStatusRequest {
            container_id: id.into(),
            verbose: true,
        };
        let answer = self.runtime.container_status(request).await;
        let info = answer.expect("a status").into_inner().info;
        serde_json::from_str(&info["info"]).expect("JSON")
    }

    /// The same of a pod.
    pub async fn pod_info(&mut self, id: &str) -> serde_json::Value {
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: id.into(),
            verbose: true,
        };
        let answer = self.runtime.pod_sandbox_status(request).await;
        let info = answer.expect("a status").into_inner().info;
        serde_json::from_str(&info["info"]).expect("JSON")
    }

    pub async fn remove_all(&mut self) {
        for pod in self.pods().await {
            self.stop_pod(&pod.id).await.expect("a stop");
            self.remove_pod(&pod.id).await.expect("a removal");
        }
    }

    /// What a container has written, without times.
    pub fn log(&self, pod: &str, container: &str) -> String {
        let path = self.logs.join(pod).join(format!("{container}.log"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let line = |line: &str| line.splitn(4, ' ').nth(3).unwrap_or_default().to_owned();
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Waits until the log is so.
    #[track_caller]
    pub fn logged(&self, pod: &str, container: &str, wanted: &str) {
        let mut last = String::new();
        let seen = wait::until("the log", SOON, || {
            last = self.log(pod, container);
            (last == wanted).then_some(())
        });
        assert!(seen.is_ok(), "{last:?}, not {wanted:?}");
    }
}
