//! A client of the HTTP API.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io::Cursor;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::HeaderMap;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use spotreel_api::CloudEvent;
use spotreel_bus::events::EventStream;
use spotreel_domain::TaskId;

use crate::stage::{Stage, until};

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Web {
    base: String,
    client: reqwest::Client,
    key: Option<String>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// Null: no JSON.
    pub json: Value,
}

impl Web {
    pub fn of(stage: &Stage) -> Self {
        let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        Self {
            base: format!("http://{}", stage.address()),
            client: client.build().unwrap(),
            key: None,
        }
    }

    /// The same with a key.
    pub fn with_key(&self, key: &str) -> Self {
        Self {
            base: self.base.clone(),
            client: self.client.clone(),
            key: Some(key.to_owned()),
        }
    }

    pub fn key(&self) -> &str {
        self.key.as_deref().unwrap()
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub async fn answer(&self, request: RequestBuilder) -> Answer {
        let response = request.timeout(PATIENCE).send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.unwrap();
        Answer {
            status,
            headers,
            json: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    pub async fn send(&self, method: Method, path: &str) -> Answer {
        self.answer(self.request(method, path)).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.answer(self.request(Method::POST, path).json(body))
            .await
    }
}

impl Answer {
    /// A refusal in the one form that all of them have.
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(
            (self.status.as_u16(), &self.json["code"]),
            (status, &code.into()),
            "{self:?}"
        );
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json["status"], status);
        assert_eq!(self.json["type"], format!("urn:spotreel:problem:{code}"));
        assert!(!self.json["detail"].as_str().unwrap().is_empty());
    }
}

type Lines = futures::channel::mpsc::UnboundedSender<std::io::Result<Bytes>>;

/// A list of JSON lines whose end has not come.
pub struct Upload {
    lines: Lines,
    answer: BoxStream<'static, reqwest::Result<Bytes>>,
    text: String,
}

impl Upload {
    /// The server has taken it once this returns.
    pub async fn begin(web: &Web) -> Self {
        let (lines, response) = Self::ask(web).await;
        assert_eq!(response.headers()["content-type"], "application/jsonl");
        Self {
            lines,
            answer: response.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    /// The answer as it begins: a refusal, too.
    pub async fn ask(web: &Web) -> (Lines, reqwest::Response) {
        let (lines, body) = futures::channel::mpsc::unbounded();
        let request = web
            .request(Method::POST, "/v1/tasks")
            .header("Content-Type", "application/jsonl")
            .body(reqwest::Body::wrap_stream(body));
        let answer = tokio::time::timeout(PATIENCE, request.send()).await;
        (lines, answer.expect("an answer begins").unwrap())
    }

    pub fn say(&mut self, task: &Value) {
        let line = format!("{task}\n").into();
        self.lines.unbounded_send(Ok(line)).unwrap();
    }

    /// The next result. None: the server has ended the answer.
    pub async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some((line, rest)) = self.text.split_once('\n') {
                let line = serde_json::from_str(line).unwrap();
                self.text = rest.to_owned();
                return Some(line);
            }
            let more = tokio::time::timeout(PATIENCE, self.answer.next()).await;
            let more = more.expect("a line, or the end")?.ok()?;
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }
}

/// One server-sent event.
#[derive(Debug, Default)]
pub struct Told {
    pub id: Option<String>,
    pub event: String,
    pub data: Value,
}

pub struct Sse {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    text: String,
}

impl Sse {
    pub async fn open(web: &Web, path: &str, last: Option<&str>) -> Self {
        let mut request = web.request(Method::GET, path);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            body: response.bytes_stream().boxed(),
            text: String::new(),
        }
    }

    /// None: the server has ended the stream.
    pub async fn next(&mut self) -> Option<Told> {
        // In all: comments keep the connection alive, and the test must not wait for ever.
        let next = tokio::time::timeout(PATIENCE, self.wait()).await;
        next.expect("an event, or the end")
    }

    async fn wait(&mut self) -> Option<Told> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(told) = parse(&block) {
                    return Some(told);
                }
                continue;
            }
            let more = self.body.next().await?.ok()?;
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }
}

/// None: a comment, or the time to come back after.
fn parse(block: &str) -> Option<Told> {
    let mut told = Told::default();
    for line in block.lines() {
        match line.split_once(": ") {
            Some(("id", id)) => told.id = Some(id.to_owned()),
            Some(("event", event)) => told.event = event.to_owned(),
            Some(("data", data)) => told.data = serde_json::from_str(data).unwrap(),
            _ => {}
        }
    }
    (!told.event.is_empty()).then_some(told)
}

/// A key as `order` wants it, once the API knows it: its id, and who uses it.
pub async fn key(stage: &Stage, web: &Web, order: Value) -> (String, Web) {
    let made = stage.order("ops.key.create", &order).await;
    let id = made["id"].as_str().unwrap().to_owned();
    let web = web.with_key(made["token"].as_str().unwrap());
    until("the key is known", async || {
        web.get("/v1/tasks").await.status == 200
    })
    .await;
    (id, web)
}

/// Publishes the task's newest event, as notifier does.
pub async fn tell(stage: &Stage, id: &str) {
    let id = TaskId::parse(id).unwrap();
    let last = stage.log.last(&id).await.unwrap().unwrap();
    let event = CloudEvent::of_task(last.sequence, last.event, &last.task, None);
    let payload = serde_json::to_vec(&event).unwrap();
    let events = EventStream::open(&stage.root).await;
    let headers = async_nats::HeaderMap::new();
    let (name, sequence) = (last.event.as_str(), last.sequence);
    let published = events.publish(&id, name, sequence, headers, payload.into());
    assert!(published.await.unwrap());
}

/// A picture with something in it.
pub fn png(width: u32, height: u32) -> Vec<u8> {
    let mut picture = image::RgbImage::new(width, height);
    for (x, y, pixel) in picture.enumerate_pixels_mut() {
        let shade = |at: u32| u8::try_from(at % 256).unwrap();
        *pixel = image::Rgb([shade(x), shade(y), 90]);
    }
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}
