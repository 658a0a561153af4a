//! A bucket of the local cloud, and `spotreel models` over it.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use spotreel_localcloud::TestCloud;
use spotreel_s3::{Keys, Store, StoreConfig};
use spotreel_test_kit::{printed, refusal, tiny_pack, until, without_settings};

pub const BUCKET: &str = "spotreel";
pub const MODEL: &str = "t2v-A14B";
pub const HIGH: &str = "transformer/diffusion_pytorch_model.safetensors";
/// As the command asks for it.
pub const RANGE: u64 = 8 << 20;

pub struct Scene {
    pub cloud: TestCloud,
}

impl Scene {
    pub async fn new() -> Self {
        let cloud = TestCloud::start().await;
        let config = StoreConfig::at(&cloud.endpoint_url(), "us-east-1", BUCKET);
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config, keys).await;
        let made = store.create_bucket_if_missing().await;
        made.expect("the bucket can be made");
        Self { cloud }
    }

    pub fn path(&self, name: &str) -> String {
        self.cloud.dir.path().join(name).display().to_string()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spotreel"));
        without_settings(&mut command);
        command
            .arg("models")
            .args(args)
            .env("AWS_ENDPOINT_URL", self.cloud.endpoint_url())
            .env("AWS_ACCESS_KEY_ID", "local")
            .env("AWS_SECRET_ACCESS_KEY", "local-secret")
            .env("SPOTREEL_BUCKET", BUCKET);
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("it can be run")
    }

    pub fn say(&self, args: &[&str]) -> String {
        printed(&mut self.command(args))
    }

    pub fn refused(&self, args: &[&str]) -> String {
        refusal(&mut self.command(args))
    }

    pub fn document(&self, args: &[&str]) -> Value {
        let text = self.say(&[args, &["--json"]].concat());
        serde_json::from_str(&text).expect("it is JSON")
    }

    pub fn pack(&self, from: &str, to: &str) -> Value {
        let source = ["--source", "Wan-AI/Wan2.2", "--revision", "5be7df9"];
        let args = ["pack", from, "--model", MODEL, "--to", to];
        self.document(&[&args[..], &source].concat())
    }
}

pub fn tiny() -> PathBuf {
    tiny_pack(MODEL)
}

/// The tiny model with a larger expert, so that a pull takes a while.
pub fn grown(to: &str, bytes: usize) {
    let copied = Command::new("cp")
        .args(["-r", &tiny().display().to_string(), to])
        .status();
    assert!(copied.expect("cp is there").success());
    let about = json!({"noise": {"dtype": "U8", "shape": [bytes], "data_offsets": [0, bytes]}});
    let about = about.to_string();
    let length = (about.len() as u64).to_le_bytes();
    let noise: Vec<u8> = (0..bytes / 8)
        .flat_map(|at| {
            (at as u64)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .to_le_bytes()
        })
        .collect();
    let file = [&length[..], about.as_bytes(), &noise].concat();
    fs::write(Path::new(to).join(HIGH), file).expect("it can be written");
}

/// Until it has met the first rule of the faults.
pub async fn asked_for(s: &Scene, command: &mut Child) {
    until("it asks", async || {
        assert_eq!(command.try_wait().expect("it is our child"), None);
        s.cloud.faults().report()[0].matched > 0
    })
    .await;
}

/// What it says when it is told to end.
pub fn end(command: Child) -> String {
    let pid = Pid::from_raw(i32::try_from(command.id()).expect("ids are small"));
    kill(pid, Signal::SIGTERM).expect("it is our child");
    let output = command.wait_with_output().expect("it is our child");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).expect("it is text")
}
