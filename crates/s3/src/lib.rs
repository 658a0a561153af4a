//! The object store as the product needs it, over the AWS SDK.
//!
//! Artifacts and checkpoints are written once: [`Store::put_file_if_absent`] lets exactly one writer win and says
//! [`Put::Exists`] to the others. Every object carries the SHA-256 of its bytes in its metadata, and
//! [`Store::get_to_file`] believes no byte that does not match it. Any S3 will do; the endpoint is configuration.

mod bucket;
mod credentials;
mod error;
mod get;
mod key;
mod link;
mod list;
mod multipart;
mod put;
mod range;
mod store;
mod unfinished;

pub use bucket::{CheckError, CreateBucketError};
pub use error::RequestError;
pub use get::{GetBytesError, GetFileError, HeadError, ObjectInfo};
pub use key::KeyError;
pub use link::{Link, PresignError};
pub use list::{DeleteError, DeleteManyError, DeletePrefixError, ListError, ListedObject};
pub use put::{Put, PutBytesError, PutFileError};
pub use range::GetRangeError;
pub use store::{Keys, Store, StoreConfig};
pub use unfinished::Unfinished;
