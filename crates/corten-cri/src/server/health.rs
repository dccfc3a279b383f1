//! `grpc.health.v1.Health/Check`: whether it serves, which it does if it answers.

use std::future::{Ready, ready};

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::{Status, server::Grpc};
use tonic_prost::ProstCodec;

use crate::proto::{image_service_server, runtime_service_server};

pub(super) const SERVICE_NAME: &str = "grpc.health.v1.Health";
const SERVING: i32 = 1;

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckRequest {
    #[prost(string, tag = "1")]
    pub service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CheckResponse {
    #[prost(int32, tag = "1")]
    pub status: i32,
}

#[derive(Clone)]
struct Check;

impl Service<tonic::Request<CheckRequest>> for Check {
    type Response = tonic::Response<CheckResponse>;
    type Error = Status;
    type Future = Ready<Result<Self::Response, Status>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Status>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let service = request.into_inner().service;
        let known = [
            "",
            image_service_server::SERVICE_NAME,
            runtime_service_server::SERVICE_NAME,
        ];
        ready(match known.contains(&service.as_str()) {
            true => Ok(tonic::Response::new(CheckResponse { status: SERVING })),
            false => Err(Status::not_found(format!("no service {service:?} here"))),
        })
    }
}

/// Its `Watch` is left out, which the protocol allows.
pub(super) async fn answer(request: Request<Incoming>) -> Response<Body> {
    if request.uri().path() != "/grpc.health.v1.Health/Check" {
        return Status::unimplemented("of the health service there is Check only").into_http();
    }
    let codec: ProstCodec<CheckResponse, CheckRequest> = ProstCodec::default();
    Grpc::new(codec).unary(Check, request).await
}
