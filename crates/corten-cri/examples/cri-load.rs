//! Load for a runtime behind a CRI socket, whoever made it: what `cargo xtask bench cri` measures with.
//!
//! ```text
//! cri-load SOCKET pull IMAGE
//! cri-load SOCKET start COUNT CONCURRENT IMAGE PREFIX LOGS   a line for each pod: milliseconds until its container runs
//! cri-load SOCKET remove
//! ```

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use corten_cri::proto::image_service_client::ImageServiceClient;
use corten_cri::proto::runtime_service_client::RuntimeServiceClient;
use corten_cri::proto::*;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::codegen::Service;

type Failed = Box<dyn Error + Send + Sync>;

/// One HTTP/2 connection over a Unix socket.
#[derive(Clone)]
struct Channel(SendRequest<Body>);

impl Channel {
    async fn connect(socket: &str) -> Result<Self, Failed> {
        let stream = TokioIo::new(tokio::net::UnixStream::connect(socket).await?);
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (sender, connection) = builder.handshake(stream).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl Service<http::Request<Body>> for Channel {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let [socket, rest @ ..] = words.as_slice() else {
        return Err("cri-load SOCKET COMMAND".into());
    };
    let channel = Channel::connect(socket).await?;
    let runtime = RuntimeServiceClient::with_origin(channel.clone(), origin());
    match rest {
        ["pull", image] => {
            let spec = ImageSpec {
                image: image.to_string(),
                ..ImageSpec::default()
            };
            let request = PullImageRequest {
                image: Some(spec),
                ..PullImageRequest::default()
            };
            let mut images = ImageServiceClient::with_origin(channel, origin());
            images.pull_image(request).await?;
        }
        ["start", count, concurrent, image, prefix, logs] => {
            let work = Work {
                runtime,
                image: image.to_string(),
                prefix: prefix.to_string(),
                logs: logs.to_string(),
                next: AtomicUsize::new(0),
                count: count.parse()?,
            };
            start(Arc::new(work), concurrent.parse()?).await?;
        }
        ["remove"] => remove(runtime).await?,
        _ => return Err("pull, start or remove".into()),
    }
    Ok(())
}

struct Work {
    runtime: RuntimeServiceClient<Channel>,
    image: String,
    prefix: String,
    logs: String,
    next: AtomicUsize,
    count: usize,
}

async fn start(work: Arc<Work>, concurrent: usize) -> Result<(), Failed> {
    let mut tasks = Vec::new();
    for _ in 0..concurrent {
        let work = work.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                let number = work.next.fetch_add(1, Ordering::Relaxed);
                if number >= work.count {
                    return Ok::<(), Failed>(());
                }
                let took = one(&work, number).await?;
                println!("{took:.3}");
            }
        }));
    }
    for task in tasks {
        task.await??;
    }
    Ok(())
}

/// A pod and its container until that runs; in milliseconds.
async fn one(work: &Work, number: usize) -> Result<f64, Failed> {
    let mut runtime = work.runtime.clone();
    let name = format!("{}-{number}", work.prefix);
    let config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.clone(),
            uid: name.clone(),
            namespace: "bench".into(),
            attempt: 0,
        }),
        hostname: name.clone(),
        log_directory: format!("{}/{name}", work.logs),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: "/corten-bench-cri".into(),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxSandboxSecurityContext::default()
            }),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    let container = ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: "c".into(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image: work.image.clone(),
            ..ImageSpec::default()
        }),
        command: vec!["sleep".into(), "1000".into()],
        log_path: "c.log".into(),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(NamespaceOption {
                    pid: NamespaceMode::Container.into(),
                    ..NamespaceOption::default()
                }),
                ..LinuxContainerSecurityContext::default()
            }),
            ..LinuxContainerConfig::default()
        }),
        ..ContainerConfig::default()
    };
    let since = Instant::now();
    let request = RunPodSandboxRequest {
        config: Some(config.clone()),
        runtime_handler: String::new(),
    };
    let pod = runtime.run_pod_sandbox(request).await?.into_inner();
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.pod_sandbox_id,
        config: Some(container),
        sandbox_config: Some(config),
    };
    let made = runtime.create_container(request).await?.into_inner();
    let container_id = made.container_id;
    let request = StartContainerRequest {
        container_id: container_id.clone(),
    };
    runtime.start_container(request).await?;
    loop {
        let request = ContainerStatusRequest {
            container_id: container_id.clone(),
            verbose: false,
        };
        let status = runtime.container_status(request).await?.into_inner().status;
        match status.unwrap_or_default().state() {
            ContainerState::ContainerRunning => break,
            ContainerState::ContainerCreated => {}
            other => return Err(format!("{name} is {}", other.as_str_name()).into()),
        }
    }
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

async fn remove(mut runtime: RuntimeServiceClient<Channel>) -> Result<(), Failed> {
    let all = runtime.list_pod_sandbox(ListPodSandboxRequest { filter: None });
    for pod in all.await?.into_inner().items {
        let id = pod.id;
        let request = StopPodSandboxRequest {
            pod_sandbox_id: id.clone(),
        };
        runtime.stop_pod_sandbox(request).await?;
        let request = RemovePodSandboxRequest { pod_sandbox_id: id };
        runtime.remove_pod_sandbox(request).await?;
    }
    Ok(())
}
