//! From a POST to an answer: who asks, what is asked, faults, and the note in the list of calls.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::calls::{Call, Recorded};
use super::error::Refusal;
use super::launcher::Answer;
use super::query::Node;
use super::state::{Ec2State, new_uuid};
use super::xml::render;
use super::{Ec2, Launcher, describe, fleet, instances, quotas, signature, templates};
use crate::clock::now_us;
use crate::faults::{Action, Failure, Rule};

const NAMESPACE: &str = "http://ec2.amazonaws.com/doc/2016-11-15/";
const VERSION: &str = "2016-11-15";
/// As HTTP writes it.
const DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";
const QUOTAS: &str = "ServiceQuotasV20190624.";
/// What is the request's envelope and not part of what is asked: two requests that differ only here are the same.
const ENVELOPE: [&str; 3] = ["Action", "Version", "ClientToken"];
/// The actions that AWS has made idempotent by token.
const WITH_TOKEN: [&str; 3] = [
    "CreateFleet",
    "CreateLaunchTemplate",
    "CreateLaunchTemplateVersion",
];

/// What becomes of a request.
pub(crate) enum Answered {
    Response(Response<Bytes>),
    /// The connection is to be cut.
    Cut,
}

/// A body, or a refusal.
type CallResult = Result<String, Refusal>;

impl Ec2 {
    pub async fn answer(self: &Arc<Self>, parts: &Parts, body: &[u8], arrived_us: u64) -> Answered {
        let target = parts.headers.get("x-amz-target");
        let target = target.and_then(|value| value.to_str().ok()).unwrap_or("");
        let quota = target.strip_prefix(QUOTAS);
        let request = match quota {
            Some(_) => Ok(Node::default()),
            None => Node::parse(body),
        };
        let (action, token) = match &request {
            Ok(request) => (
                quota.or(request.text("Action")).unwrap_or("").to_owned(),
                request.text("ClientToken").map(str::to_owned),
            ),
            Err(_) => (String::new(), None),
        };

        let verdict = self.faults.judge(&action, token.as_deref().unwrap_or(""));
        if !verdict.delay.is_zero() {
            tokio::time::sleep(verdict.delay).await;
        }
        let keys = (&self.config.access_key, &self.config.secret_key);
        let work = || {
            signature::verify(parts, body, keys.0, keys.1)?;
            match quota {
                Some(operation) => {
                    let answer = quotas::answer(operation, body, |_| self.config.vcpu_quota)?;
                    Ok(answer.to_string())
                }
                None => self.act(&action, request?, &verdict.bends),
            }
        };
        let outcome = match &verdict.failure {
            None => work(),
            Some(failure) => {
                if failure.after {
                    let _ = work(); // done, and then the answer gets lost
                }
                Err(refusal(failure))
            }
        };
        let cut = verdict
            .failure
            .is_some_and(|failure| failure.action == Action::Reset);

        self.calls.record(&Recorded {
            action: &action,
            body: &String::from_utf8_lossy(body),
            answer: outcome
                .as_deref()
                .ok()
                .filter(|_| action.starts_with("CreateLaunchTemplate")),
        });
        let code = outcome.as_ref().err().map(|refusal| refusal.code.clone());
        tracing::debug!(action, code, cut, "answered");
        self.calls.add(Call {
            action,
            arrived_us,
            took_us: now_us().saturating_sub(arrived_us),
            error: if cut { Some("reset".to_owned()) } else { code },
            client_token: token,
        });
        let mut response = match (cut, quota) {
            (true, _) => return Answered::Cut,
            (false, Some(_)) => json_response(outcome),
            (false, None) => xml_response(outcome),
        };
        // The clock that callers go by is the one that launch times are told in.
        let date = self.clock.now().strftime(DATE).to_string();
        if let Ok(date) = HeaderValue::from_str(&date) {
            response.headers_mut().insert(header::DATE, date);
        }
        Answered::Response(response)
    }

    /// One action, once: under the lock from the look at the token to the note of the answer.
    fn act(self: &Arc<Self>, action: &str, mut request: Node, faults: &[Rule]) -> CallResult {
        if request.text("Version") != Some(VERSION) {
            let message = format!("The version of the API must be {VERSION}");
            return Err(Refusal::new("NoSuchVersion", message));
        }
        let launcher = Launcher {
            ec2: self,
            now: self.clock.now(),
        };
        let token = request
            .text("ClientToken")
            .filter(|token| !token.is_empty());
        let token = token
            .filter(|_| WITH_TOKEN.contains(&action))
            .map(str::to_owned);
        let whole = request.clone();
        for name in ENVELOPE {
            request.remove(name);
        }
        let mut state = self.lock();
        if let Some(token) = &token
            && let Some(answer) = state.tokens.replay(action, token, &request)?
        {
            return Ok(answer);
        }
        let answer = dispatch(&mut state, action, &whole, &launcher, faults)?;
        let answer = answer
            .renamed(&format!("{action}Response"))
            .namespace(NAMESPACE)
            .text("requestId", new_uuid());
        let answer = render(&answer);
        if let Some(token) = &token {
            let now = launcher.now;
            state
                .tokens
                .remember((action, token), &request, &answer, now);
        }
        Ok(answer)
    }
}

fn dispatch(
    state: &mut Ec2State,
    action: &str,
    request: &Node,
    launcher: &Launcher<'_>,
    faults: &[Rule],
) -> Answer {
    match action {
        "CreateFleet" => fleet::create(state, request, launcher, faults),
        "DescribeFleets" => fleet::list(state, launcher, request),
        "DeleteFleets" => fleet::delete(state, request, launcher),
        "DescribeInstances" => instances::list(state, launcher, request, faults),
        "GetConsoleOutput" => instances::console(state, launcher, request),
        "TerminateInstances" => instances::terminate(state, launcher, request, faults),
        "CreateTags" => instances::create_tags(state, launcher, request),
        "DeleteTags" => instances::delete_tags(state, launcher, request),
        "CreateLaunchTemplate" => templates::create(state, launcher, request),
        "CreateLaunchTemplateVersion" => templates::create_version(state, launcher, request),
        "DescribeLaunchTemplates" => templates::list(state, launcher, request),
        "DescribeLaunchTemplateVersions" => templates::list_versions(state, launcher, request),
        "DeleteLaunchTemplate" => templates::delete(state, launcher, request),
        "DescribeSpotPriceHistory" => describe::prices(state, launcher, request),
        "DescribeInstanceTypes" => describe::types(state, launcher, request),
        "DescribeInstanceTypeOfferings" => describe::offerings(state, launcher, request),
        "DescribeSubnets" => describe::subnets(state, launcher, request),
        "DescribeAvailabilityZones" => describe::zones(state, launcher, request),
        "" => {
            let message = "The request is missing an action or a required parameter";
            Err(Refusal::new("MissingAction", message))
        }
        other => {
            let message = format!("The action {other} is not valid for this web service.");
            Err(Refusal::new("InvalidAction", message))
        }
    }
}

fn refusal(failure: &Failure) -> Refusal {
    let code = match failure.action {
        Action::SlowDown => "RequestLimitExceeded",
        Action::Error => failure.code.as_deref().unwrap_or("InternalError"),
        _ => "InternalError",
    };
    let message = match (&failure.message, code) {
        (Some(message), _) => message,
        (None, "RequestLimitExceeded") => "Request limit exceeded.",
        (None, _) => "a fault on order",
    };
    Refusal::new(code, message)
}

fn xml_response(outcome: CallResult) -> Response<Bytes> {
    let (status, body) = match outcome {
        Ok(body) => (StatusCode::OK, body),
        Err(refusal) => (refusal.status, refusal.body(&new_uuid())),
    };
    response(status, "text/xml;charset=UTF-8", body)
}

fn json_response(outcome: CallResult) -> Response<Bytes> {
    let (status, body) = match outcome {
        Ok(body) => (StatusCode::OK, body),
        Err(Refusal {
            status,
            code,
            message,
        }) => {
            let body = json!({ "__type": code, "message": message });
            (status, body.to_string())
        }
    };
    response(status, "application/x-amz-json-1.1", body)
}

fn response(status: StatusCode, kind: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
