//! `corten serve` in a sandbox, and a gRPC client (tonic's) on its socket.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use corten_cri::proto::image_service_client::ImageServiceClient;
use corten_cri::proto::runtime_service_client::RuntimeServiceClient;
use corten_cri::proto::{
    AuthConfig, Image, ImageSpec, ImageStatusRequest, ListImagesRequest, PullImageRequest,
};
use corten_testkit::{Sandbox, wait};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::SOON;

/// What kubelet's clients allow, too.
const MESSAGE_MAX: usize = 16 << 20;

/// A daemon that runs. Dropped without a word, it is killed.
pub struct Daemon {
    pub child: Child,
    pub socket: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// Starts one on the sandbox's folders and waits until it serves.
    #[track_caller]
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Self {
        let mut command = sandbox.command();
        command.args(["--log-level", "info", "serve"]).args(args);
        Self::spawn(sandbox, command)
    }

    /// The same of a command of the test's own, which logs at info or below.
    #[track_caller]
    pub fn spawn(sandbox: &Sandbox, mut command: Command) -> Self {
        let log = sandbox.files().join("serve.log");
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&log);
        // Another may have served in this sandbox before.
        let words = |log: &str| log.matches("serving").count();
        let before = words(&std::fs::read_to_string(&log).unwrap_or_default());
        let child = command
            .stderr(file.expect("a log"))
            .stdout(Stdio::null())
            .spawn();
        let mut daemon = Self {
            child: child.expect("corten serve"),
            socket: sandbox.run_folder().join("corten.sock"),
            log,
        };
        let up = wait::until("the daemon's socket", SOON, || {
            assert_eq!(
                daemon.child.try_wait().expect("wait"),
                None,
                "{}",
                daemon.log()
            );
            // The socket is there before all is; the word is not.
            let ready =
                words(&daemon.log()) > before && UnixStream::connect(&daemon.socket).is_ok();
            ready.then_some(())
        });
        assert!(up.is_ok(), "{}", daemon.log());
        daemon
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and its end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        signal(&self.child, "TERM");
        self.ended()
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let ended = wait::until("the daemon's end", SOON, || {
            self.child.try_wait().expect("wait")
        });
        ended.unwrap_or_else(|e| panic!("{e}\n{}", self.log()))
    }

    async fn channel(&self) -> Channel {
        let uri = format!("unix://{}", self.socket.display());
        let endpoint = Endpoint::from_shared(uri).expect("a socket's address");
        endpoint.connect().await.expect("a connection")
    }

    pub async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await).max_decoding_message_size(MESSAGE_MAX)
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Pulls for nobody in particular; the image's id.
    pub async fn pull(&self, image: &str) -> Result<String, Status> {
        self.pull_as(image, None).await
    }

    pub async fn pull_as(&self, image: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let request = PullImageRequest {
            image: Some(spec(image)),
            auth,
            sandbox_config: None,
        };
        let pulled = self.images().await.pull_image(request).await?;
        Ok(pulled.into_inner().image_ref)
    }

    /// Gives up after `limit`, and says so to the server, as kubelet does.
    pub async fn pull_within(&self, image: &str, limit: Duration) -> Result<String, Status> {
        let mut request = Request::new(PullImageRequest {
            image: Some(spec(image)),
            ..PullImageRequest::default()
        });
        request.set_timeout(limit);
        let pulled = self.images().await.pull_image(request).await?;
        Ok(pulled.into_inner().image_ref)
    }

    pub async fn image(&self, name: &str) -> Option<Image> {
        let request = ImageStatusRequest {
            image: Some(spec(name)),
            verbose: false,
        };
        let status = self.images().await.image_status(request).await;
        status.expect("a status").into_inner().image
    }

    /// Every image's id.
    pub async fn ids(&self) -> Vec<String> {
        let mut images = self.images().await;
        let listed = images.list_images(ListImagesRequest::default()).await;
        let images = listed.expect("a list").into_inner().images;
        images.into_iter().map(|i| i.id).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Ended already, in a test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn spec(image: &str) -> ImageSpec {
    ImageSpec {
        image: image.into(),
        ..ImageSpec::default()
    }
}

pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &child.id().to_string()])
        .status();
    assert!(sent.expect("kill").success());
}

/// Runs a client's work.
pub fn block<T>(work: impl Future<Output = T>) -> T {
    let threads = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    threads.expect("a runtime").block_on(work)
}

/// The whole answer to one HTTP request.
pub fn http(mut stream: impl Read + Write, method: &str, path: &str) -> String {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

pub fn get(address: &str, path: &str) -> String {
    http(
        TcpStream::connect(address).expect("a connection"),
        "GET",
        path,
    )
}
