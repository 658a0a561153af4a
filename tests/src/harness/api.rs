//! A client of the product: the verbs, and what they answer.

use std::time::Duration;

use async_nats::{Client, HeaderMap, Request};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use spotreel_api::{Accepted, AcceptedMany, ApiError, ErrorReply, TaskView};

use super::eventually;

const ANSWER_WITHIN: Duration = Duration::from_secs(15);

#[derive(Clone)]
pub struct Api {
    pub client: Client,
}

impl Api {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// One request. `Err(None)`: no answer came.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &Value,
    ) -> Result<T, Option<ApiError>> {
        self.ask_with(verb, HeaderMap::new(), body).await
    }

    pub async fn ask_with<T: DeserializeOwned>(
        &self,
        verb: &str,
        headers: HeaderMap,
        body: &Value,
    ) -> Result<T, Option<ApiError>> {
        let request = Request::new()
            .headers(headers)
            .payload(body.to_string().into())
            .timeout(Some(ANSWER_WITHIN));
        let answer = self
            .client
            .send_request(format!("spotreel.{verb}"), request)
            .await
            .map_err(|_| None)?;
        if let Ok(refused) = serde_json::from_slice::<ErrorReply>(&answer.payload) {
            return Err(Some(refused.error));
        }
        match serde_json::from_slice(&answer.payload) {
            Ok(answer) => Ok(answer),
            Err(error) => panic!(
                "spotreel.{verb} answered {}: {error}",
                String::from_utf8_lossy(&answer.payload)
            ),
        }
    }

    /// Submits one task that must be taken.
    pub async fn submit(&self, task: &Value) -> Accepted {
        self.ask("submit", task)
            .await
            .unwrap_or_else(|refused| panic!("{task} was refused: {refused:?}"))
    }

    pub async fn submit_many(&self, tasks: &[Value]) -> AcceptedMany {
        self.ask("submit", &json!(tasks))
            .await
            .expect("a list is answered item by item")
    }

    pub async fn get(&self, id: &str) -> Option<TaskView> {
        self.ask("get", &json!({ "id": id })).await.ok()
    }

    pub async fn cancel(&self, id: &str) -> Result<TaskView, Option<ApiError>> {
        self.ask("cancel", &json!({ "id": id })).await
    }

    pub async fn retry(&self, id: &str) -> Result<TaskView, Option<ApiError>> {
        self.ask("retry", &json!({ "id": id })).await
    }

    /// Waits until the task is in this state.
    pub async fn until(&self, id: &str, state: &str, within: Duration) -> TaskView {
        eventually(&format!("task {id} is {state}"), within, || async {
            self.get(id).await.filter(|task| task.state == state)
        })
        .await
    }
}
