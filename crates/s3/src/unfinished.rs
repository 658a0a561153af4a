//! Uploads that nobody ended: their parts are paid for, and no listing of objects shows them.

use std::time::SystemTime;

use aws_sdk_s3::types::MultipartUpload;

use crate::key::check_prefix;
use crate::list::MAX_LISTED;
use crate::{ListError, RequestError, Store};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfinished {
    /// Of the object that it would have become.
    pub key: String,
    pub upload_id: String,
    pub begun: Option<SystemTime>,
}

impl Unfinished {
    fn of(upload: MultipartUpload) -> Self {
        let begun = upload.initiated;
        Self {
            key: upload.key.unwrap_or_default(),
            upload_id: upload.upload_id.unwrap_or_default(),
            begun: begun.and_then(|at| SystemTime::try_from(at).ok()),
        }
    }
}

impl Store {
    /// All under a prefix, those that go on at this moment among them.
    pub async fn list_unfinished(&self, prefix: &str) -> Result<Vec<Unfinished>, ListError> {
        check_prefix(prefix)?;
        let (mut found, mut after) = (Vec::new(), (None, None));
        loop {
            let (key, upload_id) = after;
            let page = self
                .client
                .list_multipart_uploads()
                .bucket(&self.bucket)
                .prefix(prefix)
                .set_key_marker(key)
                .set_upload_id_marker(upload_id)
                .send()
                .await
                .map_err(|error| RequestError::new("ListMultipartUploads", error))?;
            let uploads = page.uploads.unwrap_or_default();
            found.extend(uploads.into_iter().map(Unfinished::of));
            if found.len() > MAX_LISTED {
                let prefix = prefix.to_owned();
                return Err(ListError::TooMany { prefix });
            }
            // A page that leads nowhere would be asked for without end.
            if page.is_truncated != Some(true) || page.next_key_marker.is_none() {
                return Ok(found);
            }
            after = (page.next_key_marker, page.next_upload_id_marker);
        }
    }

    /// Gives the parts' space back. One that has ended meanwhile is no error.
    pub async fn abort(&self, key: &str, upload_id: &str) -> Result<(), RequestError> {
        let request = self
            .client
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(key)
            .upload_id(upload_id);
        let Err(error) = request.send().await else {
            return Ok(());
        };
        match RequestError::new("AbortMultipartUpload", error) {
            error if error.is("NoSuchUpload") => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures::{StreamExt, stream};
    use spotreel_localcloud::TestCloud;

    use super::*;
    use crate::{Keys, StoreConfig};

    #[tokio::test]
    async fn unfinished_uploads_are_listed_over_pages_and_aborted() {
        let cloud = TestCloud::start().await;
        let config = StoreConfig::at(&cloud.endpoint_url(), "eu-central-1", "artifacts");
        let keys = Keys::new("local", "local-secret");
        let store = Store::connect_with_keys(&config, keys).await;
        store.create_bucket_if_missing().await.unwrap();
        // More than a page, and many of one key.
        let begin = async |at: usize| {
            let key = match at {
                0 => "q".to_owned(),
                _ => format!("p/{}", at % 3),
            };
            let request = store.client.create_multipart_upload();
            let sent = request.bucket(&store.bucket).key(key).send().await;
            sent.unwrap();
        };
        let begun = stream::iter(0..1203).map(begin).buffer_unordered(16);
        begun.collect::<Vec<()>>().await;
        let found = store.list_unfinished("p/").await.unwrap();
        let ids: BTreeSet<_> = found.iter().map(|upload| &upload.upload_id).collect();
        assert_eq!((found.len(), ids.len()), (1202, 1202));
        assert!(found.iter().all(|upload| upload.begun.is_some()));
        let one = &found[7];
        for _ in 0..2 {
            store.abort(&one.key, &one.upload_id).await.unwrap();
        }
        let rest = store.list_unfinished("").await.unwrap();
        assert!(rest.len() == 1202 && !rest.contains(one));
    }
}
