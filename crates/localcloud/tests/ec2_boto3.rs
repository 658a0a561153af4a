//! EC2 as boto3 sees it: a client that nobody here wrote, with AWS's own model of the answers.

use spotreel_localcloud::TestCloud;
use tokio::process::Command;

const VCPU_QUOTA: u32 = 160;

#[tokio::test(flavor = "multi_thread")]
async fn boto3_gets_what_aws_documents() {
    let boto3 = Command::new("python3")
        .args(["-c", "import boto3"])
        .output();
    if !boto3.await.is_ok_and(|output| output.status.success()) {
        eprintln!(
            "SKIPPED: python3 has no boto3, so EC2 was NOT looked at from there (make tools)"
        );
        return;
    }
    let cloud = TestCloud::with(|config| config.vcpu_quota = VCPU_QUOTA).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/py/ec2_boto3.py");
    let run = Command::new("python3")
        .arg(script)
        .arg(cloud.endpoint_url())
        .arg(format!("http://{}", cloud.admin_addr.unwrap()))
        .arg(VCPU_QUOTA.to_string())
        .output();
    let run = run.await.unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    let failed = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{said}\n{failed}");
    cloud.shutdown().await;
}
