//! A cloud and a client that speaks the Query protocol by hand, signed by AWS's own signer.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::StatusCode;
use spotreel_localcloud::{Config, InstanceReport, TestCloud};

/// Far more than anything here takes; who waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Answer {
    pub status: StatusCode,
    pub body: String,
}

impl Answer {
    /// The texts of all elements of a name, in order.
    pub fn all(&self, name: &str) -> Vec<String> {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let parts = self.body.split(&open).skip(1);
        let texts = parts.filter_map(|part| part.split(&close).next());
        texts.map(str::to_owned).collect()
    }

    pub fn one(&self, name: &str) -> String {
        match &self.all(name)[..] {
            [one] => one.clone(),
            other => panic!("{} times {name} in {}", other.len(), self.body),
        }
    }

    /// The code of the refusal, or nothing.
    pub fn code(&self) -> String {
        self.all("Code").first().cloned().unwrap_or_default()
    }

    pub fn instance_ids(&self) -> Vec<String> {
        let sets = self.all("instanceIds").into_iter();
        let ids = sets.flat_map(|set| {
            let inner = Answer {
                status: self.status,
                body: set,
            };
            inner.all("item")
        });
        ids.collect()
    }
}

#[derive(Clone)]
pub struct Ec2 {
    url: String,
    http: reqwest::Client,
}

impl Ec2 {
    pub fn new(url: String) -> Self {
        let http = reqwest::Client::new();
        Self { url, http }
    }

    /// One signed call; `Err`: the connection was cut.
    pub async fn try_call(&self, action: &str, fields: &[(&str, &str)]) -> reqwest::Result<Answer> {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("Action", action);
        form.append_pair("Version", "2016-11-15");
        form.extend_pairs(fields);
        let body = form.finish();
        let identity = Credentials::new("local", "local-secret", None, None, "test").into();
        let parameters = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-2")
            .name("ec2")
            .time(now())
            .settings(SigningSettings::default())
            .build()
            .unwrap();
        let url = format!("{}/", self.url);
        let kind = ("content-type", "application/x-www-form-urlencoded");
        let signable = SignableBody::Bytes(body.as_bytes());
        let signable = SignableRequest::new("POST", &url, [kind].into_iter(), signable).unwrap();
        let signed = sign(signable, &parameters.into()).unwrap();
        let mut request = self.http.post(&url).header(kind.0, kind.1);
        for (name, value) in signed.output().headers() {
            request = request.header(name, value);
        }
        let response = request.body(body).send().await?;
        let status = response.status();
        let body = response.text().await?;
        Ok(Answer { status, body })
    }

    pub async fn call(&self, action: &str, fields: &[(&str, &str)]) -> Answer {
        self.try_call(action, fields).await.unwrap()
    }

    pub async fn good(&self, action: &str, fields: &[(&str, &str)]) -> Answer {
        let answer = self.call(action, fields).await;
        assert_eq!(answer.status, 200, "{action}: {}", answer.body);
        answer
    }

    /// A template whose machines run this script (none: they idle); its id.
    pub async fn template(&self, script: &str) -> String {
        use base64::Engine;
        let script = base64::prelude::BASE64_STANDARD.encode(script);
        let fields = [
            ("LaunchTemplateName", "template"),
            ("LaunchTemplateData.ImageId", "ami-1"),
            ("LaunchTemplateData.InstanceType", "g5.xlarge"),
            ("LaunchTemplateData.UserData", &script),
            (
                "LaunchTemplateData.InstanceInitiatedShutdownBehavior",
                "terminate",
            ),
        ];
        let made = self.good("CreateLaunchTemplate", &fields).await;
        made.one("launchTemplateId")
    }

    /// Spot instances of one pool.
    pub async fn fleet(&self, template: &str, target: u32, token: &str) -> Answer {
        self.good("CreateFleet", &fleet(template, &target.to_string(), token))
            .await
    }
}

pub const KIND: &str = "g5.xlarge";
pub const ZONE: &str = "us-east-2a";

pub fn fleet<'a>(template: &'a str, target: &'a str, token: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("Type", "instant"),
        ("ClientToken", token),
        ("TargetCapacitySpecification.TotalTargetCapacity", target),
        (
            "TargetCapacitySpecification.DefaultTargetCapacityType",
            "spot",
        ),
        (
            "LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId",
            template,
        ),
        (
            "LaunchTemplateConfigs.1.LaunchTemplateSpecification.Version",
            "1",
        ),
        ("LaunchTemplateConfigs.1.Overrides.1.InstanceType", KIND),
        ("LaunchTemplateConfigs.1.Overrides.1.AvailabilityZone", ZONE),
    ]
}

pub struct Scene {
    pub cloud: TestCloud,
    pub ec2: Ec2,
}

impl Scene {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let cloud = TestCloud::with(change).await;
        let ec2 = Ec2::new(cloud.endpoint_url());
        Self { cloud, ec2 }
    }

    pub fn find(&self, id: &str) -> Option<InstanceReport> {
        let mut instances = self.cloud.instances().into_iter();
        instances.find(|instance| instance.id == id)
    }

    pub async fn until_state(&self, id: &str, state: &str) -> InstanceReport {
        until(&format!("{id} {state}"), || {
            self.find(id).filter(|found| found.state == state)
        })
        .await
    }
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process is there and no zombie.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[expect(clippy::disallowed_methods, reason = "a signature needs the time")]
fn now() -> SystemTime {
    SystemTime::now()
}
