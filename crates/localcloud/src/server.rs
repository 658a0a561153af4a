//! The one listener: connections, S3 or EC2, faults, and the headers that browsers ask for.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::{self, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::Body;
use s3s::service::S3Service;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::now_us;
use crate::ec2::{Answered, Ec2};
use crate::faults::{Action, Failure, Faults};
use crate::s3::Operation;

/// A form of EC2 with user data in it is some 30 KB.
const LONGEST_FORM: usize = 1 << 20;
/// After an error of accept (out of files): long enough to not spin, short enough to not be noticed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Clone)]
pub(crate) struct Server {
    pub s3: S3Service,
    pub ec2: Arc<Ec2>,
    pub faults: Arc<Faults>,
    /// No new requests; those under way are answered.
    pub stop: CancellationToken,
    /// Now.
    pub kill: CancellationToken,
    pub connections: TaskTracker,
}

impl Server {
    /// Accepts until told to stop; requests under way are answered.
    pub async fn run(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let _ = stream.set_nodelay(true); // slower without it, not wrong
                    self.connections.spawn(self.clone().serve(stream));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(self, stream: TcpStream) {
        let cut = CancellationToken::new();
        let (stop, kill) = (self.stop.clone(), self.kill.clone());
        let service = service_fn({
            let cut = cut.clone();
            move |request| {
                let (server, cut) = (self.clone(), cut.clone());
                let answer = async move { server.answer(request, &cut).await };
                Box::pin(async move { Ok::<_, Infallible>(answer.await) })
            }
        });
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service);
        let mut stopping = false;
        loop {
            tokio::select! {
                done = &mut connection => {
                    if let Err(error) = done {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = cut.cancelled() => break,
                () = kill.cancelled() => return,
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
        let stream = connection.into_parts().io.into_inner();
        let _ = stream.set_zero_linger(); // with it the close is a RST; a FIN would do too
    }

    async fn answer(&self, request: Request<Incoming>, cut: &CancellationToken) -> Response<Body> {
        // S3 has no POST to the service itself: that is for the services that speak so.
        if request.method() == Method::POST && request.uri().path() == "/" {
            return self.answer_ec2(request, cut).await;
        }
        let operation = Operation::of(request.method(), request.uri(), request.headers());
        let mut response = if request.method() == Method::OPTIONS {
            Response::new(Body::empty())
        } else {
            self.answer_s3(request, &operation, cut).await
        };
        let status = response.status().as_u16();
        tracing::debug!(op = operation.name, key = %operation.key, status, "answered");
        allow_browsers(&mut response);
        response
    }

    async fn answer_ec2(
        &self,
        request: Request<Incoming>,
        cut: &CancellationToken,
    ) -> Response<Body> {
        let arrived_us = now_us();
        let (parts, body) = request.into_parts();
        let body = match Limited::new(body, LONGEST_FORM).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                tracing::debug!(%error, "request body could not be read");
                return refusal(StatusCode::BAD_REQUEST, "MalformedQueryString");
            }
        };
        match self.ec2.answer(&parts, &body, arrived_us).await {
            Answered::Response(response) => response.map(Body::from),
            Answered::Cut => {
                cut.cancel();
                std::future::pending().await
            }
        }
    }

    async fn answer_s3(
        &self,
        request: Request<Incoming>,
        operation: &Operation,
        cut: &CancellationToken,
    ) -> Response<Body> {
        let verdict = self.faults.judge(operation.name, &operation.key);
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        let Some(Failure {
            action,
            after,
            code,
            ..
        }) = verdict.failure
        else {
            return self.call(request).await;
        };
        if after {
            self.call(request).await;
        } else if action != Action::Reset {
            // Read to the end, or the client sees a broken pipe instead of the answer.
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
        }
        match action {
            Action::InternalError => refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Action::SlowDown => refusal(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            Action::Error => {
                let code = code.as_deref().unwrap_or("InternalError");
                refusal(StatusCode::BAD_REQUEST, code)
            }
            // The other actions bend a call of EC2 and are no failures.
            _ => {
                cut.cancel();
                std::future::pending().await
            }
        }
    }

    async fn call(&self, request: Request<Incoming>) -> Response<Body> {
        match self.s3.call(request.map(Body::from)).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(?error, "response could not be built");
                refusal(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
        }
    }
}

fn refusal(status: StatusCode, code: &str) -> Response<Body> {
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>a fault on order</Message></Error>"
    );
    let mut response = Response::new(Body::from(xml));
    *response.status_mut() = status;
    let xml = HeaderValue::from_static("application/xml");
    response.headers_mut().insert(header::CONTENT_TYPE, xml);
    response
}

/// A page from anywhere may play a video that it has a signed link to.
fn allow_browsers(response: &mut Response<Body>) {
    const HEADERS: [(HeaderName, &str); 4] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (
            header::ACCESS_CONTROL_ALLOW_METHODS,
            "GET, HEAD, PUT, POST, DELETE",
        ),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            "ETag, Content-Length, Content-Range, Accept-Ranges, Last-Modified",
        ),
    ];
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
}
