//! How programs reach the local cloud.

/// S3 and EC2 of a local cloud.
#[derive(Clone)]
pub struct CloudAccess {
    /// `http://ADDRESS`.
    pub endpoint: String,
    pub region: String,
    pub bucket: String,
    pub access_key: String,
    pub secret_key: String,
}

impl CloudAccess {
    /// For programs that run on no instance.
    pub fn variables(&self) -> Vec<(String, String)> {
        let mut variables = self.address();
        variables.extend(self.keys());
        // There is no instance metadata: asking for it would only take time.
        let disabled = ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
        variables.push(disabled);
        variables
    }

    /// Where S3 is. Programs on an instance get their keys from its metadata.
    pub fn address(&self) -> Vec<(String, String)> {
        pairs([
            ("SPOTREEL_S3__BUCKET", &self.bucket),
            ("SPOTREEL_S3__REGION", &self.region),
            ("SPOTREEL_S3__ENDPOINT_URL", &self.endpoint),
            ("SPOTREEL_S3__FORCE_PATH_STYLE", "true"),
            ("AWS_REGION", &self.region),
        ])
    }

    pub fn keys(&self) -> Vec<(String, String)> {
        pairs([
            ("AWS_ACCESS_KEY_ID", &self.access_key),
            ("AWS_SECRET_ACCESS_KEY", &self.secret_key),
        ])
    }
}

fn pairs<const N: usize>(variables: [(&str, &str); N]) -> Vec<(String, String)> {
    variables
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
}
