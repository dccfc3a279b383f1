//! From a path to a service.

use std::convert::Infallible;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tracing::Instrument as _;

use super::call::{Call, Observer, Watched};
use super::named::Named;
use super::{MESSAGE_MAX, health};
use crate::proto::image_service_server::{self, ImageService, ImageServiceServer};
use crate::proto::runtime_service_server::{self, RuntimeService, RuntimeServiceServer};

pub(super) struct Routes<I, R> {
    images: ImageServiceServer<Named<I>>,
    runtime: RuntimeServiceServer<Named<R>>,
    observer: Arc<dyn Observer>,
}

impl<I, R> Clone for Routes<I, R> {
    fn clone(&self) -> Self {
        Self {
            images: self.images.clone(),
            runtime: self.runtime.clone(),
            observer: self.observer.clone(),
        }
    }
}

impl<I: ImageService, R: RuntimeService> Routes<I, R> {
    pub fn new(images: Arc<I>, runtime: Arc<R>, observer: Arc<dyn Observer>) -> Self {
        let images = ImageServiceServer::new(Named(images));
        let runtime = RuntimeServiceServer::new(Named(runtime));
        Self {
            images: images
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            runtime: runtime
                .max_decoding_message_size(MESSAGE_MAX)
                .max_encoding_message_size(MESSAGE_MAX),
            observer,
        }
    }

    /// Answers one call. Every failure is a gRPC status, but for what is no gRPC at all.
    pub async fn answer(
        self,
        mut request: Request<Incoming>,
        stopped: watch::Receiver<bool>,
    ) -> Result<Response<Watched>, Infallible> {
        if !is_grpc(&request) {
            let mut refused = Response::new(Watched::nothing());
            *refused.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            return Ok(refused);
        }
        let call = Call::begin(&request, self.observer.clone());
        request.extensions_mut().insert(call.subject.clone());
        let (span, deadline) = (call.span.clone(), call.deadline);
        let work = self.dispatch(request);
        let answered = match deadline {
            None => work.instrument(span).await,
            Some(at) => match tokio::time::timeout_at(at, work.instrument(span)).await {
                Ok(answered) => answered,
                Err(_) => call.late().into_http(),
            },
        };
        Ok(call.watch(answered, stopped))
    }

    async fn dispatch(mut self, request: Request<Incoming>) -> Response<Body> {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        let answered = match service {
            image_service_server::SERVICE_NAME => self.images.call(request).await,
            runtime_service_server::SERVICE_NAME => self.runtime.call(request).await,
            health::SERVICE_NAME => return health::answer(request).await,
            other => {
                let text = format!("no service {other:?} here");
                return Status::unimplemented(text).into_http();
            }
        };
        match answered {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE);
    kind.is_some_and(|k| k.as_bytes().starts_with(b"application/grpc"))
}
