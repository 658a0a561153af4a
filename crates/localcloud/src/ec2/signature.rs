//! Signature version 4 over a request's headers: ours or not.

use hmac::{Hmac, KeyInit, Mac};
use http::request::Parts;
use sha2::{Digest, Sha256};

use super::error::Refusal;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Checks key id and signature. The age of the signature is not checked: clocks here may run fast on purpose.
pub(crate) fn verify(parts: &Parts, body: &[u8], key: &str, secret: &str) -> Result<(), Refusal> {
    let Some(header) = header(parts, "authorization") else {
        let message = "Request is missing Authentication Token";
        return Err(Refusal::new("MissingAuthenticationToken", message));
    };
    let field = |name: &str| {
        let mut fields = header.split([' ', ',']);
        fields.find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let fields = (
        field("Credential"),
        field("SignedHeaders"),
        field("Signature"),
    );
    let (Some(credential), Some(signed), Some(signature)) = fields else {
        return Err(unknown());
    };
    let Some((id, scope)) = credential.split_once('/') else {
        return Err(unknown());
    };
    if id != key || !header.starts_with(ALGORITHM) {
        return Err(unknown());
    }

    let mut canonical = format!("{}\n{}\n", parts.method, parts.uri.path());
    canonical += &format!("{}\n", parts.uri.query().unwrap_or(""));
    for name in signed.split(';') {
        let value = header_of(parts, name).unwrap_or_default();
        canonical += &format!("{name}:{value}\n");
    }
    canonical += &format!("\n{signed}\n{}", hex::encode(Sha256::digest(body)));
    let date = header_of(parts, "x-amz-date").unwrap_or_default();
    let hash = hex::encode(Sha256::digest(canonical.as_bytes()));
    let text = format!("{ALGORITHM}\n{date}\n{scope}\n{hash}");
    let first = format!("AWS4{secret}").into_bytes();
    let mut chain = scope.split('/').map(str::as_bytes);
    let key = chain.try_fold(first, |key, part| {
        Some(
            mac(&key)?
                .chain_update(part)
                .finalize()
                .into_bytes()
                .to_vec(),
        )
    });
    let valid = key
        .and_then(|key| mac(&key))
        .map(|mac| hex::encode(mac.chain_update(text.as_bytes()).finalize().into_bytes()));
    if valid.as_deref() == Some(signature) {
        return Ok(());
    }
    let message = "The request signature we calculated does not match the signature you provided. \
                   Check your AWS Secret Access Key and signing method.";
    Err(Refusal::new("SignatureDoesNotMatch", message))
}

fn unknown() -> Refusal {
    let message = "AWS was not able to validate the provided access credentials";
    Refusal::new("AuthFailure", message)
}

fn header<'a>(parts: &'a Parts, name: &str) -> Option<&'a str> {
    parts.headers.get(name)?.to_str().ok()
}

/// All values of a header, in one line and without runs of spaces.
fn header_of(parts: &Parts, name: &str) -> Option<String> {
    let values = parts.headers.get_all(name).iter();
    let values: Vec<String> = values
        .filter_map(|value| value.to_str().ok())
        .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn mac(key: &[u8]) -> Option<Hmac<Sha256>> {
    Hmac::<Sha256>::new_from_slice(key).ok()
}
