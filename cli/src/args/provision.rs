//! What has to exist before the programs start.

use std::time::Duration;

use clap::Args;

use super::values::duration;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  SPOTREEL_PROVISION_PASSWORD=… spotreel provision --nats-url nats://nats:4222 --replicas 3
  spotreel provision --check

It is safe to run the command again, and several times at once. What an older version made is widened: missing subjects and
filters are added, limits raised, flags turned on, and each change is printed. Nothing is taken away: what is wider than
required stays. Every other difference is left as it is, and the command exits with 1 and says what to do. The S3 bucket is created only if --bucket is given; AWS credentials are read from
the usual places.")]
pub struct ProvisionArgs {
    /// NATS user that is allowed to create streams
    #[arg(long, default_value = "provision", value_name = "NAME")]
    pub admin_user: String,
    /// Password of --admin-user
    #[arg(
        long,
        env = "SPOTREEL_PROVISION_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub admin_password: Option<String>,
    /// NATS user that is allowed to create streams in the clients' account
    #[arg(long, default_value = "clients-provision", value_name = "NAME")]
    pub clients_user: String,
    /// Password of --clients-user; without it, the clients' copy of the events is not created
    #[arg(
        long,
        env = "SPOTREEL_CLIENTS_PROVISION_PASSWORD",
        hide_env_values = true,
        value_name = "PASSWORD"
    )]
    pub clients_password: Option<String>,
    /// Number of copies of each stream: 1, 3 or 5; use 3 on a cluster
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = replicas)]
    pub replicas: usize,
    /// Time after which a silent worker loses its task
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub lease: Duration,
    /// S3 bucket for videos, images and checkpoints
    #[arg(long, env = "SPOTREEL_BUCKET", value_name = "NAME")]
    pub bucket: Option<String>,
    /// Address of an S3 service other than Amazon's
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket
    #[arg(
        long,
        env = "AWS_REGION",
        default_value = "us-east-1",
        value_name = "NAME"
    )]
    pub region: String,
    /// Change nothing; print what would be done. Exits with 1 where the command itself would
    #[arg(long)]
    pub check: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

fn replicas(text: &str) -> Result<usize, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        "5" => Ok(5),
        _ => {
            Err("must be 1, 3 or 5: an even number of copies survives no more failures".to_owned())
        }
    }
}
