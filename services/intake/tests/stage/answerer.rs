//! Another service, played by the test with the rights of its user.

use futures::StreamExt;
use serde_json::Value;
use spotreel_bus::LogRoom;
use tokio::sync::{mpsc, watch};

use super::{Stage, connect};

pub struct Answerer {
    answer: watch::Sender<Value>,
    /// Subject and body of each question.
    asked: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Answerer {
    pub async fn begin(stage: &Stage, user: &str, verbs: &[&'static str]) -> Self {
        let client = connect(&stage.url, user).await;
        let mut heard = Vec::new();
        for verb in verbs {
            heard.push(client.queue_subscribe(*verb, "q".into()).await.unwrap());
        }
        let mut heard = futures::stream::select_all(heard);
        // Asked on the same connection: with the answer, the server knows that we listen.
        LogRoom::of_log(&client).await.unwrap();
        let (answer, answers) = watch::channel(Value::Null);
        let (told, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(question) = heard.next().await {
                let body = serde_json::from_slice(&question.payload).unwrap();
                let _ = told.send((question.subject.to_string(), body));
                let answer = answers.borrow().clone();
                if let (false, Some(reply)) = (answer.is_null(), question.reply) {
                    let sent = client.publish(reply, answer.to_string().into()).await;
                    sent.unwrap();
                }
            }
        });
        Self { answer, asked }
    }

    /// What every question is answered from now on; null: nothing.
    pub fn says(&self, answer: Value) {
        self.answer.send_replace(answer);
    }

    /// The body of the next question.
    pub async fn asked(&mut self) -> Value {
        self.asked_on().await.1
    }

    /// The subject and the body of the next question.
    pub async fn asked_on(&mut self) -> (String, Value) {
        self.asked.recv().await.unwrap()
    }

    pub fn was_not_asked(&mut self) -> bool {
        self.asked.try_recv().is_err()
    }
}
