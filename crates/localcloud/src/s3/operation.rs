//! Which S3 operation a request is, told from its line alone: faults strike before anything else has read it.

use http::{HeaderMap, Method, Uri};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Operation {
    pub name: &'static str,
    /// Percent-decoded; empty for operations on a bucket.
    pub key: String,
}

impl Operation {
    pub fn of(method: &Method, uri: &Uri, headers: &HeaderMap) -> Self {
        let path = uri.path().trim_start_matches('/');
        let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
        let query = uri.query().unwrap_or("");
        let has = |name: &str| {
            let mut names = query
                .split('&')
                .map(|pair| pair.split('=').next().unwrap_or(""));
            names.any(|found| found == name)
        };
        let copy = headers.contains_key("x-amz-copy-source");
        let name = match (method.as_str(), bucket.is_empty(), key.is_empty()) {
            ("GET", true, _) => "ListBuckets",
            ("PUT", false, true) => "CreateBucket",
            ("HEAD", false, true) => "HeadBucket",
            ("DELETE", false, true) => "DeleteBucket",
            ("POST", false, true) if has("delete") => "DeleteObjects",
            ("GET", false, true) if has("uploads") => "ListMultipartUploads",
            ("GET", false, true) if has("location") => "GetBucketLocation",
            ("GET", false, true) => "ListObjectsV2",
            ("PUT", false, false) if has("partNumber") => "UploadPart",
            ("PUT", false, false) if copy => "CopyObject",
            ("PUT", false, false) => "PutObject",
            ("HEAD", false, false) => "HeadObject",
            ("GET", false, false) if has("uploadId") => "ListParts",
            ("GET", false, false) => "GetObject",
            ("POST", false, false) if has("uploads") => "CreateMultipartUpload",
            ("POST", false, false) if has("uploadId") => "CompleteMultipartUpload",
            ("DELETE", false, false) if has("uploadId") => "AbortMultipartUpload",
            ("DELETE", false, false) => "DeleteObject",
            _ => "Unknown",
        };
        let key = decode(key);
        Self { name, key }
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).filter(|_| byte == b'%');
        if let Some(decoded) = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            out.push(decoded);
            at += 3;
        } else {
            out.push(byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys() {
        let cases = [
            ("PUT", "/b/a%2Fb%20c?x-id=PutObject", "PutObject", "a/b c"),
            ("PUT", "/b/k?partNumber=1&uploadId=u", "UploadPart", "k"),
            ("POST", "/b/k?uploads", "CreateMultipartUpload", "k"),
            ("POST", "/b/k?uploadId=u", "CompleteMultipartUpload", "k"),
            ("GET", "/b/?list-type=2", "ListObjectsV2", ""),
            ("POST", "/b?delete", "DeleteObjects", ""),
            ("HEAD", "/b", "HeadBucket", ""),
        ];
        for (method, uri, name, key) in cases {
            let method: Method = method.parse().unwrap();
            let found = Operation::of(&method, &uri.parse().unwrap(), &HeaderMap::new());
            assert_eq!(
                (found.name, found.key.as_str()),
                (name, key),
                "{method} {uri}"
            );
        }
    }
}
